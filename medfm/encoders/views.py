"""Several CT windows of the same slices, each read by one encoder, and joined with the place in the body in mind."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm import config
from medfm.nn.slices import check_channels

__all__ = ["ViewsEncoder"]


class ViewsEncoder(nn.Module):
    """MVP-Net (Li et al., MICCAI 2019): one stream a window, weights shared, features joined by attention over channels
    that knows where in the body the slices lie.

    The place is learned beside the boxes: a regression of the share of the body's length, and one of three classes,
    divided at 0.58 and 0.72 of it.

    Args:
        inner: node of the encoder that reads each view. views: channels of the input, one a window.
        attention: without it (False) the views are joined by a plain convolution, for comparison. place: without it
            (False) attention does not know the place.
    """

    bins = (0.58, 0.72)

    def __init__(
        self, *, inner: dict[str, Any], views: int = 3, attention: bool = True, place: bool = True, hidden: int = 64
    ) -> None:
        super().__init__()
        self.inner = config.build("encoders", inner)
        self.views, self.attention, self.place = views, attention, place
        self.channels, self.strides = tuple(self.inner.channels), self.inner.strides
        last = self.channels[-1] * views
        self.look_where = nn.Sequential(nn.Linear(last, hidden), nn.GroupNorm(8, hidden), nn.ReLU())
        self.where = nn.Linear(hidden, 1 + len(self.bins) + 1)
        self.gates = nn.ModuleList(
            nn.Sequential(
                nn.Linear(c * views + hidden, c * views // 4), nn.ReLU(), nn.Linear(c * views // 4, c * views)
            )
            for c in self.channels
        )
        self.joins = nn.ModuleList(nn.Conv3d(c * views, c, 1) for c in self.channels)

    def forward(self, x: Tensor, spacing: Tensor | None = None) -> list[Tensor]:
        """x: (B, views, D, H, W) -> the levels of the inner encoder."""
        return self.look(x, spacing)[0]

    def look(self, x: Tensor, spacing: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """The levels, and where the slices lie: (B, 4), share of the body's length and logits of its three parts."""
        check_channels(x, self.views)
        inputs = getattr(self.inner, "inputs", 3)
        alone = x.flatten(0, 1)[:, None].expand(-1, inputs, -1, -1, -1)
        mm = None if spacing is None else spacing.repeat_interleave(self.views, 0)
        levels = [y.unflatten(0, (len(x), self.views)).flatten(1, 2) for y in self.inner(alone, mm)]
        seen = self.look_where(levels[-1].mean((2, 3, 4)))
        known = seen if self.place else torch.zeros_like(seen)
        joined = []
        for y, gate, join in zip(levels, self.gates, self.joins, strict=True):
            if self.attention:
                weights = gate(torch.cat([y.mean((2, 3, 4)), known], 1)).sigmoid()
                y = y * weights[:, :, None, None, None]
            joined.append(join(y))
        return joined, self.where(seen)

    def place_loss(self, where: Tensor, share: Tensor) -> Tensor:
        """share: (B,), where the slices lie in the body, 0 to 1 -> smooth L1 plus cross-entropy."""
        part = sum((share > edge).long() for edge in self.bins)
        return F.smooth_l1_loss(where[:, 0], share) + F.cross_entropy(where[:, 1:], torch.as_tensor(part))
