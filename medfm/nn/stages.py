"""Stages of plain, residual and squeeze-and-excitation convolutions for pictures and volumes alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from medfm.errors import ConfigError

__all__ = ["Activation", "ConvStage", "Norm", "Triple", "convolution", "each", "rounded_up", "triple"]

Norm = Literal["instance", "batch", "group", "none"]
Activation = Literal["relu", "leaky", "prelu", "elu", "gelu"]
Triple = tuple[int, int, int]


_CONVOLUTIONS: dict[tuple[int, bool], type[nn.Module]] = {
    (2, False): nn.Conv2d, (3, False): nn.Conv3d, (2, True): nn.ConvTranspose2d, (3, True): nn.ConvTranspose3d,
}  # fmt: skip


class ConvStage(nn.Module):
    """Blocks of convolution, normalisation and activation at one resolution; the first convolution may stride.

    Plain: U-Net (Ronneberger et al. 2015). `residual` adds each block's input to its output, projected where its shape
    differs: V-Net with one block of `convs` 5x5x5 convolutions (Milletari et al. 2016), residual U-Nets with blocks of
    two (He et al. 2016). `squeeze` is the reduction of squeeze-and-excitation at each block's end (Hu et al. 2018; 16
    there), 0 for none.

    Takes and gives (B, C, D, H, W) for ndim 3 and (N, C, H, W) for ndim 2.
    """

    def __init__(
        self, ndim: int, width_in: int, width_out: int, *, kernel: Triple, stride: Triple = (1, 1, 1), convs: int = 2,
        blocks: int = 1, residual: bool = False, squeeze: int = 0, norm: Norm = "instance", act: Activation = "leaky",
    ) -> None:  # fmt: skip
        super().__init__()
        self.blocks, self.gates, self.shortcuts = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.last = nn.ModuleList(activation(act, width_out) for _ in range(blocks)) if residual else None
        for block in range(blocks):
            step = stride if block == 0 else (1, 1, 1)
            layers: list[nn.Module] = []
            for index in range(convs):
                first = index == 0
                entering = width_in if first else width_out
                layers += [
                    convolution(ndim, entering, width_out, kernel, step if first else (1, 1, 1)),
                    normalisation(norm, ndim, width_out),
                ]
                if index < convs - 1 or not residual:  # a residual sum is activated after the addition
                    layers.append(activation(act, width_out))
            self.blocks.append(nn.Sequential(*layers))
            self.gates.append(_gate(ndim, width_out, squeeze))
            same = width_in == width_out and step == (1, 1, 1)
            self.shortcuts.append(
                nn.Identity() if same or not residual else convolution(ndim, width_in, width_out, step, step)
            )
            width_in = width_out

    def forward(self, x: Tensor) -> Tensor:
        """(..., width_in, sizes) -> (..., width_out, sizes / stride, rounded up)."""
        for index, block in enumerate(self.blocks):
            y = self.gates[index](block(x))
            if self.last is not None:
                y = self.last[index](
                    y + _fitted(self.shortcuts[index](rounded_up(x, getattr(self.shortcuts[index], "stride", ()))), y)
                )
            x = y
        return x


def convolution(
    ndim: int, width_in: int, width_out: int, kernel: Triple, stride: Triple = (1, 1, 1), *, up: bool = False,
    bias: bool = True,
) -> nn.Module:  # fmt: skip
    """A convolution of `ndim` axes (the last ones of the triples); `up` makes it a transposed one.

    Odd kernels are padded to keep the size, so strides round up; kernels equal to their stride are not padded.
    """
    sizes, steps = kernel[-ndim:], stride[-ndim:]
    padding = tuple(0 if k == s else (k - 1) // 2 for k, s in zip(sizes, steps, strict=True))
    return _CONVOLUTIONS[ndim, up](width_in, width_out, sizes, stride=steps, padding=padding, bias=bias)


def normalisation(norm: Norm, ndim: int, width: int) -> nn.Module:
    """Instance, batch or group normalisation of `width` channels."""
    if norm == "instance":
        return (nn.InstanceNorm2d if ndim == 2 else nn.InstanceNorm3d)(width, affine=True)
    if norm == "batch":
        return (nn.BatchNorm2d if ndim == 2 else nn.BatchNorm3d)(width)
    return nn.GroupNorm(8 if width % 8 == 0 else 1, width) if norm == "group" else nn.Identity()


def activation(act: Activation, width: int) -> nn.Module:
    """An activation by name; PReLU has one slope a channel (He et al. 2015)."""
    kinds = {"relu": nn.ReLU, "elu": nn.ELU, "gelu": nn.GELU}
    if act == "leaky":
        return nn.LeakyReLU(0.01, inplace=True)
    return nn.PReLU(width) if act == "prelu" else kinds[act]()


def triple(value: int | Sequence[int], *, ndim: int) -> Triple:
    """An int or three of them as (D, H, W); 2D parts leave D alone (1)."""
    if isinstance(value, int):
        return (value if ndim == 3 else 1, value, value)
    if len(value) != 3 or (ndim == 2 and value[0] != 1):
        raise ConfigError(f"found {list(value)} for ndim {ndim}; expected an int or [D, H, W], with D = 1 in 2D")
    return (value[0], value[1], value[2])


def each(value: int | Sequence[int], count: int) -> list[int]:
    """One number a stage: an int for all, or a list of that length."""
    if isinstance(value, int):
        return [value] * count
    if len(value) != count:
        raise ConfigError(
            f"found {len(value)} numbers {list(value)} for {count} stages; give one number a stage, or one"
        )
    return list(value)


def rounded_up(x: Tensor, steps: Sequence[int]) -> Tensor:
    """`x` (..., sizes) with its last voxels repeated until every size is a whole number of `steps`."""
    pads: list[int] = []
    for size, step in zip(x.shape[: -len(steps) - 1 : -1], steps[::-1], strict=True):
        pads += [0, -size % step]
    return nn.functional.pad(x, pads, mode="replicate") if any(pads) else x


def _gate(ndim: int, width: int, squeeze: int) -> nn.Module:
    if not squeeze:
        return nn.Identity()
    from monai.networks.blocks import ChannelSELayer

    gate: nn.Module = ChannelSELayer(ndim, width, r=min(squeeze, width))
    return gate


def _fitted(x: Tensor, like: Tensor) -> Tensor:
    if x.shape != like.shape:
        raise ConfigError(f"a residual shortcut gave {tuple(x.shape)} for {tuple(like.shape)}; use odd kernels")
    return x
