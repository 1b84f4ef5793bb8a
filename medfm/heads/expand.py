"""Swin-Unet's decoder: patches expand where the encoder's merged, windows shift, no convolution but the last."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from medfm.encoders.swin import SwinBlocks
from medfm.errors import ConfigError
from medfm.nn.slices import fold, unfold
from medfm.nn.stages import Triple

__all__ = ["Expand", "ExpandHead"]


class ExpandHead(nn.Module):
    """From the coarsest level up: patch expanding, concatenation, linear map, Swin blocks (Cao et al. 2022).

    Args:
        channels, strides: of a `SwinEncoder`'s levels. classes: of the softmax, background included.
        depth, heads: blocks of each level and their heads at the finest one, doubled a level. window: see `SwinBlocks`.
    """

    ndim = 2

    def __init__(
        self, channels: tuple[int, ...], strides: tuple[Triple, ...], classes: int, *, depth: int = 2, heads: int = 3,
        window: int = 7, drop_path: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        if any(b != 2 * a for a, b in pairwise(channels)):
            raise ConfigError(f"found levels of {channels} channels; patch expanding needs them doubled a level (swin)")
        coarse_first = list(enumerate(channels[:-1]))[::-1]
        self.ups = nn.ModuleList(Expand(2 * width) for _, width in coarse_first)
        self.joins = nn.ModuleList(nn.Linear(2 * width, width) for _, width in coarse_first)
        self.levels = nn.ModuleList(
            SwinBlocks(width, depth, heads * 2**level, window=window, drop_path=drop_path)
            for level, width in coarse_first
        )
        self.norm, self.last = nn.LayerNorm(channels[0]), Expand(channels[0], by=strides[0][1], keep=True)
        self.logits = nn.Conv2d(channels[0], classes, 1, bias=False)

    def forward(self, pyramid: list[Tensor], size: Triple | None = None) -> list[Tensor]:
        """pyramid: levels (B, C, D, h, w) -> [logits (B, classes, D, H, W)], cropped to `size`."""
        *skips, y = [fold(level).permute(0, 2, 3, 1) for level in pyramid]
        for up, join, level, skip in zip(self.ups, self.joins, self.levels, skips[::-1], strict=True):
            y = up(y)[:, : skip.shape[1], : skip.shape[2]]
            y = level(join(torch.cat([y, skip], -1)))
        y = self.logits(self.last(self.norm(y)).permute(0, 3, 1, 2))
        if size is not None:
            y = y[:, :, : size[1], : size[2]]
        return [unfold(y, len(pyramid[0]))]


class Expand(nn.Module):
    """(N, h, w, C) -> (N, by h, by w, C / 2), the inverse of patch merging; with `keep` all C channels are kept."""

    def __init__(self, width: int, *, by: int = 2, keep: bool = False) -> None:
        super().__init__()
        self.by, self.out = by, width if keep else width // 2
        self.lift = nn.Linear(width, self.out * by * by, bias=False)
        self.norm = nn.LayerNorm(self.out)

    def forward(self, x: Tensor) -> Tensor:
        n, h, w, _ = x.shape
        y = self.lift(x).view(n, h, w, self.by, self.by, self.out).transpose(2, 3)
        raised: Tensor = self.norm(y.reshape(n, h * self.by, w * self.by, self.out))
        return raised
