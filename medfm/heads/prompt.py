"""What is in this box? A mask for a box, points or a scribble, from the pyramid of a frame around them."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from medfm.errors import ConfigError
from medfm.nn.stages import ConvStage, convolution

__all__ = ["PromptHead"]

_WIDTHS = (8, 16, 32, 64, 96, 128)


class PromptHead(nn.Module):
    """The mask of what is marked in a frame, and how good it is (SAM; MedSAM, Ma et al., Nature Communications 2024).

    A small U-Net whose levels take the encoder's; the prompt enters as maps beside the picture, at full size. Its
    coarsest level tells the mask's overlap with the thing (SAM's predicted IoU). MedSAM instead codes the corners as
    tokens that attend to the whole picture: on few masks the frame needs to learn less.

    Args:
        channels: of the encoder's levels, finest first, strides 2, 4, 8 and so on. widths: at `size`, and each half.
        size: cells of a frame's side.
    """

    def __init__(self, channels: tuple[int, ...], *, widths: list[int] | None = None, size: int = 96) -> None:
        super().__init__()
        wide = list(widths or _WIDTHS[: len(channels) + 1])
        if len(wide) != len(channels) + 1 or size % 2 ** len(channels):
            raise ConfigError(
                f"found widths {wide} and size {size} for {len(channels)} levels; expected one width more than levels, "
                f"and a size that {2 ** len(channels)} divides"
            )
        self.size = size
        pairs = list(pairwise(wide))
        self.enter = _stage(3 + 3, wide[0], convs=1)
        self.norms = nn.ModuleList(nn.GroupNorm(1, width) for width in channels)
        self.joins = nn.ModuleList(
            convolution(2, width, out, (1, 1, 1)) for width, (_, out) in zip(channels, pairs, strict=True)
        )
        self.downs = nn.ModuleList(convolution(2, a, b, (1, 2, 2), (1, 2, 2)) for a, b in pairs)
        self.stages = nn.ModuleList(_stage(2 * width, width) for width in wide[1:])
        self.ups = nn.ModuleList(convolution(2, b, a, (1, 2, 2), (1, 2, 2), up=True) for a, b in pairs[::-1])
        self.backs = nn.ModuleList(_stage(2 * width, width) for width in wide[-2::-1])
        self.mask = convolution(2, wide[0], 1, (1, 1, 1))
        self.quality = nn.Sequential(nn.Linear(wide[-1], wide[-1]), nn.GELU(), nn.Linear(wide[-1], 1))

    def forward(self, picture: Tensor, levels: list[Tensor], prompt: Tensor) -> tuple[Tensor, Tensor]:
        """picture: (B, 3, size, size) in [0, 1], its levels (B, C, h, w), prompt: (B, 3, size, size).

        Returns logits (B, 1, size, size) of the frame, and the expected overlap (IoU) of the mask with the thing, (B,).
        """
        y = self.enter(torch.cat([picture * 2 - 1, prompt], 1))
        skips = [y]
        for norm, join, down, stage, level in zip(self.norms, self.joins, self.downs, self.stages, levels, strict=True):
            y = stage(torch.cat([down(y), join(norm(level))], 1))
            skips.append(y)
        quality = self.quality(y.mean((2, 3)))[:, 0].sigmoid()
        for up, back, skip in zip(self.ups, self.backs, skips[-2::-1], strict=True):
            y = back(torch.cat([up(y), skip], 1))
        return self.mask(y), quality


def _stage(width_in: int, width_out: int, *, convs: int = 2) -> ConvStage:
    return ConvStage(2, width_in, width_out, kernel=(1, 3, 3), convs=convs, squeeze=4, norm="group", act="gelu")
