"""What is in this box? A mask for a box, points or a scribble, from the pyramid that the encoder made once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medfm.nn.stages import ConvStage, convolution

__all__ = ["PromptHead"]

_KERNEL = (1, 3, 3)


class PromptHead(nn.Module):
    """Encode once, prompt often (SAM; MedSAM, Ma et al., Nature Communications 2024), looking through a frame.

    The box with its surroundings is cut from the picture and from every level (`medfm.nn.frames`), so that small and
    large things come at one size; the prompt enters as maps. A small U-Net over the cuts gives the mask, its coarsest
    level how good the mask is (SAM's predicted overlap). MedSAM instead codes the corners as tokens that attend to the
    whole picture: on few masks the frame needs to learn less.

    Args:
        channels: of the encoder's levels, finest first, strides 2 to 32. widths: at `size`, and each half of it.
        size: cells of a frame's side.
    """

    def __init__(self, channels: tuple[int, ...], *, widths: list[int] | None = None, size: int = 128) -> None:
        super().__init__()
        a, b, c, d = widths or [12, 32, 48, 96]
        self.size = size
        #: at which size each level is cut: the picture, then the pyramid's five levels
        self.sizes = (size, size // 2, size // 2, size // 4, size // 8, size // 8)
        self.norms = nn.ModuleList(nn.GroupNorm(1, width) for width in channels)
        self.enter = _stage(3 + 3, a)
        self.joins = nn.ModuleList([
            convolution(2, channels[0] + channels[1], b, (1, 1, 1)),
            convolution(2, channels[2], c, (1, 1, 1)),
            convolution(2, channels[3] + channels[4], d, (1, 1, 1)),
        ])  # fmt: skip
        self.downs = nn.ModuleList(convolution(2, i, o, (1, 2, 2), (1, 2, 2)) for i, o in ((a, b), (b, c), (c, d)))
        self.stages = nn.ModuleList(_stage(2 * width, width) for width in (b, c, d))
        self.ups = nn.ModuleList(
            convolution(2, i, o, (1, 2, 2), (1, 2, 2), up=True) for i, o in ((d, c), (c, b), (b, a))
        )
        self.backs = nn.ModuleList(_stage(2 * width, width) for width in (c, b, a))
        self.mask = convolution(2, a, 1, (1, 1, 1))
        self.quality = nn.Sequential(nn.Linear(d, d), nn.GELU(), nn.Linear(d, 1))

    def forward(self, cuts: list[Tensor], prompt: Tensor) -> tuple[Tensor, Tensor]:
        """cuts: picture (B, 3, size, size) in [0, 1], then five levels at `sizes`; prompt: (B, 3, size, size).

        Returns logits (B, 1, size, size) of the frame, and the expected overlap (IoU) of the mask with the thing, (B,).
        """
        picture, levels = cuts[0], [norm(level) for norm, level in zip(self.norms, cuts[1:], strict=True)]
        y = self.enter(torch.cat([picture * 2 - 1, prompt], 1))
        skips = [y]
        joined = (torch.cat(levels[:2], 1), levels[2], torch.cat(levels[3:], 1))
        for down, join, stage, level in zip(self.downs, self.joins, self.stages, joined, strict=True):
            y = stage(torch.cat([down(y), join(level)], 1))
            skips.append(y)
        quality = self.quality(y.mean((2, 3)))[:, 0].sigmoid()
        for up, back, skip in zip(self.ups, self.backs, skips[-2::-1], strict=True):
            y = back(torch.cat([up(y), skip], 1))
        return self.mask(y), quality


def _stage(width_in: int, width_out: int) -> ConvStage:
    return ConvStage(2, width_in, width_out, kernel=_KERNEL, squeeze=4, norm="group", act="gelu")
