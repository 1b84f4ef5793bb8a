"""U-Net decoder over any encoder's pyramid: one class for every voxel, with deep supervision where wanted."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm.errors import ConfigError
from medfm.nn.slices import fold, unfold
from medfm.nn.stages import Activation, ConvStage, Norm, Triple, convolution, each, triple

__all__ = ["SegmentHead"]

_LINEAR = {2: "bilinear", 3: "trilinear"}


class SegmentHead(nn.Module):
    """From the coarsest level up: transposed convolution, concatenation with the skip, convolutions (U-Net).

    Fits any encoder with `channels` and per-axis `strides`; where its finest level is coarser than the input, the
    logits are interpolated. Levels whose sizes were rounded up are cropped to their skips.

    Args:
        channels, strides: of the encoder's levels, finest first. classes: of the softmax, background included.
        ndim: 2 decodes slice by slice. widths: of the decoder's levels, finest first (default: those of the skips).
        deep: how many further levels, from the second finest, also give logits in training (deep supervision).
        add: finer logits are added to the coarser ones, interpolated (FCN, Long et al. 2015); needs `deep`.
        skips: without them (False) the decoder sees the coarsest level only; for comparison.
        up: "learned" (transposed convolutions) or "linear" (TransUNet's cascade). enter: width of a convolution of the
            coarsest level before the first step up, 0 for none. full: width of one more stage, without a skip, at the
            input's own resolution where the finest level is coarser; 0 for none.
        kernels: of each level, finest first, instead of `kernel` (nnU-Net on thick slices).
        convs, residual, squeeze, norm, act, kernel: see `medfm.nn.stages.ConvStage`.
    """

    def __init__(
        self, channels: tuple[int, ...], strides: tuple[Triple, ...], classes: int, *, ndim: int = 3,
        widths: list[int] | None = None, deep: int = 0, add: bool = False, skips: bool = True,
        up: Literal["learned", "linear"] = "learned", enter: int = 0, full: int = 0, kernel: int | list[int] = 3,
        kernels: list[list[int]] | None = None,
        convs: int | list[int] = 2, residual: bool = False, squeeze: int = 0, norm: Norm = "instance",
        act: Activation = "leaky",
    ) -> None:  # fmt: skip
        super().__init__()
        self.ndim, self.deep, self.add, self.skips, self.classes = ndim, deep, add, skips, classes
        if add and (full or not deep):
            raise ConfigError(f"add: found deep {deep} and full {full}; expected deep of 1 or more, and no full stage")
        outs = widths or list(channels[:-1])
        count = each(convs, len(outs))
        self.ups, self.stages = nn.ModuleList(), nn.ModuleList()
        below = channels[-1]
        style: dict[str, Any] = {"squeeze": squeeze, "norm": norm, "act": act}
        each_kernel: list[int | list[int]] = [*kernels] if kernels else [kernel] * len(outs)
        sizes = [triple(k, ndim=ndim) for k in each_kernel]
        self.enter = ConvStage(ndim, below, enter, kernel=sizes[-1], convs=1, **style) if enter else nn.Identity()
        below = enter or below
        for level in range(len(channels) - 2, -1, -1):
            step = tuple(b // a for a, b in zip(strides[level], strides[level + 1], strict=True))
            ratio = (step[0], step[1], step[2])
            skip, out = channels[level] if skips else 0, outs[level]
            # V-Net: what comes up and the skip make the stage's width together, so the residual needs no projection
            raised = out - skip if residual and out > skip else out
            raised = raised if up == "learned" else below
            self.ups.append(_up(up, ndim, below, raised, ratio))
            self.stages.append(
                ConvStage(ndim, raised + skip, out, kernel=sizes[level], convs=count[level], residual=residual, **style)
            )
            below = out
        self.full: nn.Module | None = None
        if full and strides[0] != (1, 1, 1):
            stage = ConvStage(ndim, below, full, kernel=sizes[0], convs=count[0], residual=residual, **style)
            self.full = nn.Sequential(_up("linear", ndim, below, below, strides[0]), stage)
        finest = outs[0] if self.full is None else full
        coarser = [outs[level] for level in range(1, deep + 1)]
        self.steps = [
            tuple(b / a for a, b in zip(strides[i][-ndim:], strides[i + 1][-ndim:], strict=True)) for i in range(deep)
        ]
        self.logits = nn.ModuleList(convolution(ndim, w, classes, (1, 1, 1)) for w in [finest, *coarser])

    def forward(self, pyramid: list[Tensor], size: torch.Size | Triple | None = None) -> list[Tensor]:
        """pyramid: levels (B, C, d, h, w) -> logits (B, classes, D, H, W), those of `deep` coarser levels after them.

        size: (D, H, W) of the first logits; default: the finest level's. The others come in training only.
        """
        batch = len(pyramid[0])
        levels = [fold(level) for level in pyramid] if self.ndim == 2 else pyramid
        y, seen = self.enter(levels[-1]), []
        for level, up, stage in zip(range(len(levels) - 2, -1, -1), self.ups, self.stages, strict=True):
            skip = levels[level]
            y = _cropped(up(y), skip)
            y = stage(torch.cat([skip, y], 1) if self.skips else y)
            seen.append(y)
        if self.full is not None:
            seen[-1] = self.full(y)
        wanted = 1 + (self.deep if self.training or self.add else 0)
        logits = [layer(y) for layer, y in zip(self.logits, seen[::-1][:wanted], strict=False)]
        if self.add:
            for level in range(len(logits) - 2, -1, -1):
                coarse = F.interpolate(logits[level + 1], scale_factor=self.steps[level], mode=_LINEAR[self.ndim])
                logits[level] = logits[level] + _cropped(coarse, logits[level])
        if not self.training:
            logits = logits[:1]
        if self.ndim == 2:
            logits = [unfold(part, batch) for part in logits]
        if size is not None and self.full is not None:  # levels were rounded up
            logits[0] = logits[0][:, :, : size[0], : size[1], : size[2]]
        if size is not None and tuple(size) != tuple(logits[0].shape[2:]):
            logits[0] = F.interpolate(logits[0], tuple(size), mode="trilinear", align_corners=False)
        return logits


def _up(kind: str, ndim: int, below: int, width: int, ratio: Triple) -> nn.Module:
    if kind == "learned":
        return convolution(ndim, below, width, ratio, ratio, up=True)
    return nn.Upsample(scale_factor=tuple(map(float, ratio[-ndim:])), mode=_LINEAR[ndim], align_corners=False)


def _cropped(x: Tensor, like: Tensor) -> Tensor:
    sizes = like.shape[2:]
    return x[(slice(None), slice(None), *(slice(0, s) for s in sizes))]
