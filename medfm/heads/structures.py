"""Finds named structures (organs, lesions) on the pyramid: one probability map per name, at stride 8."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm.nn.slices import DepthMix, SameConv, fold, unfold

__all__ = ["StructureHead"]


class StructureHead(nn.Module):
    """Feature pyramid (Lin et al., FPN, CVPR 2017) over strides 8, 16, 32, then one map of logits per structure.

    Maps are independent (sigmoid), since a tumour lies inside its organ.

    Args:
        channels: of the encoder's levels; the last three are used.
        labels: names of the structures, in the order of the maps.
    """

    def __init__(self, channels: tuple[int, ...], *, labels: list[str], width: int = 96) -> None:
        super().__init__()
        self.labels = list(labels)
        self.lateral = nn.ModuleList(SameConv(c, width, 1) for c in channels[-3:])
        self.smooth = nn.ModuleList(
            nn.Sequential(
                SameConv(width, width, 3, groups=8), nn.GroupNorm(8, width), nn.GELU(), SameConv(width, width, 1)
            )
            for _ in range(3)
        )  # fmt: skip
        self.mix = DepthMix(width)
        self.logits = SameConv(width, len(labels), 1)
        nn.init.constant_(self.logits.bias, -4.0)  # type: ignore[arg-type]  # most maps are empty: start there

    def forward(self, pyramid: list[Tensor], spacing: Tensor) -> Tensor:
        """pyramid: five levels (B, C, D, h, w); spacing: (B, 3) mm -> logits (B, K, D, H/8, W/8)."""
        batch = len(pyramid[0])
        y = None
        for level, lateral, smooth in zip(pyramid[:-4:-1], self.lateral[::-1], self.smooth[::-1], strict=True):
            x = lateral(fold(level).contiguous(memory_format=torch.channels_last))
            if y is not None:
                x = x + F.interpolate(y, x.shape[-2:], mode="nearest")
            y = x + smooth(x)
        assert y is not None
        mixed = self.mix(unfold(y, batch), spacing, 8)
        return unfold(self.logits(fold(mixed)), batch)

    @staticmethod
    def summary(logits: Tensor) -> Tensor:
        """The maps in numbers, (B, 5, K): highest probability, share of the view, centre (z, y, x) in [-1, 1]."""
        p = logits.sigmoid()
        share = p.mean((2, 3, 4))
        values = [p.amax((2, 3, 4)), share.clamp(min=1e-6).log() / 14 + 1]
        total = share.clamp(min=1e-6)
        for axis in (2, 3, 4):
            n = p.shape[axis]
            line = (torch.arange(n, device=p.device, dtype=p.dtype) * 2 + 1 - n) / n
            other = tuple(a for a in (2, 3, 4) if a != axis)
            values.append((p.mean(other) * line).mean(-1) / total)
        return torch.stack(values, 1)
