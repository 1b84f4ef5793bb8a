"""Convolutional encoder for pictures and volumes: U-Net, V-Net, residual, squeeze-and-excitation, nnU-Net shaped."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from medfm.errors import ConfigError
from medfm.nn.slices import check_channels, fold, unfold
from medfm.nn.stages import Activation, ConvStage, Norm, convolution, each, rounded_up, triple

__all__ = ["ConvEncoder"]


class ConvEncoder(nn.Module):
    """(B, inputs, D, H, W) -> pyramid with one level a stage, finest first.

    Sizes that a stride does not divide round up, so every input size is taken. With ndim 2 every slice is read alone.

    Args:
        channels: of each stage. strides: of each stage against the one before, an int or [D, H, W]; the first is
            usually 1. kernels: of each stage, likewise.
        convs, blocks: convolutions in a block and blocks in a stage; one number, or one a stage.
        down: how stages get coarser: their first convolution strides (nnU-Net), a convolution as wide as its stride
            before them (V-Net), or max pooling (U-Net).
        again: every stage also reads the input, averaged to its size (multi-scale input, Fu et al., TMI 2018); with max
            pooling only.
        residual, squeeze, norm, act: see `medfm.nn.stages.ConvStage`.
    """

    def __init__(
        self, *, ndim: int = 3, inputs: int = 1, channels: list[int], strides: list[int | list[int]] | None = None,
        kernels: list[int | list[int]] | int = 3, convs: int | list[int] = 2, blocks: int | list[int] = 1,
        down: Literal["stride", "patch", "pool"] = "stride", again: bool = False, residual: bool = False,
        squeeze: int = 0, norm: Norm = "instance", act: Activation = "leaky",
    ) -> None:  # fmt: skip
        super().__init__()
        count = len(channels)
        steps = [triple(s, ndim=ndim) for s in (strides or [1] + [2] * (count - 1))]
        sizes = [triple(k, ndim=ndim) for k in ([kernels] * count if isinstance(kernels, int) else kernels)]
        if ndim not in (2, 3) or len(steps) != count or len(sizes) != count:
            raise ConfigError(
                f"found ndim {ndim}, {len(steps)} strides and {len(sizes)} kernels for {count} stages; "
                "expected ndim 2 or 3 and one stride and one kernel a stage"
            )
        if again and down != "pool":
            raise ConfigError(f"again: found down {down!r}, expected 'pool'")
        self.ndim, self.inputs, self.channels, self.again = ndim, inputs, tuple(channels), again
        mean: type[nn.Module] = nn.AvgPool2d if ndim == 2 else nn.AvgPool3d
        self.means = nn.ModuleList(mean(step[-ndim:], ceil_mode=True) for step in steps[1:])
        total, levels = [1, 1, 1], []
        self.downs, self.stages = nn.ModuleList(), nn.ModuleList()
        width = inputs
        for index, out in enumerate(channels):
            step = steps[index]
            total = [t * s for t, s in zip(total, step, strict=True)]
            levels.append((total[0], total[1], total[2]))
            inside = down == "stride" or step == (1, 1, 1)
            self.downs.append(nn.Identity() if inside else _down(down, ndim, width, out, step))
            if not inside and down == "patch":
                width = out
            self.stages.append(
                ConvStage(
                    ndim, width, out, kernel=sizes[index], stride=step if inside else (1, 1, 1),
                    convs=each(convs, count)[index], blocks=each(blocks, count)[index], residual=residual,
                    squeeze=squeeze, norm=norm, act=act,
                )
            )  # fmt: skip
            width = out + (inputs if again else 0)
        self.strides = tuple(levels)

    def forward(self, x: Tensor, spacing: Tensor | None = None) -> list[Tensor]:
        """x: (B, inputs, D, H, W) -> levels (B, C, d, h, w). `spacing` is taken and not used: kernels count voxels.

        Raises ShapeError for another number of axes or channels.
        """
        check_channels(x, self.inputs)
        batch = len(x)
        pyramid: list[Tensor] = []
        picture = y = fold(x) if self.ndim == 2 else x
        for down, stage in zip(self.downs, self.stages, strict=True):
            y = down(y)
            if self.again and pyramid:
                picture = self.means[len(pyramid) - 1](picture)
                y = torch.cat([y, picture], 1)
            y = stage(y)
            pyramid.append(unfold(y, batch) if self.ndim == 2 else y)
        return pyramid


def _down(down: str, ndim: int, width: int, out: int, step: tuple[int, int, int]) -> nn.Module:
    if down == "pool":
        return (nn.MaxPool2d if ndim == 2 else nn.MaxPool3d)(step[-ndim:], ceil_mode=True)
    return nn.Sequential(_RoundUp(step[-ndim:]), convolution(ndim, width, out, step, step))


class _RoundUp(nn.Module):
    """Before a convolution that would leave out the last voxels."""

    def __init__(self, step: tuple[int, ...]) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return rounded_up(x, self.step)
