"""What the eye saw, as words-sized vectors for the language model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Connector"]


class Connector(nn.Module):
    """Pyramid and structure maps -> (B, M, E) tokens.

    Each 2 x 2 patch of the coarsest level becomes one token (pixel shuffle, as in nanoVLM), joined by the probability
    of every structure in that patch and the means of the two finer levels there, which are closer to ImageNet; the
    numbers of the structure maps as a whole follow in `notes` more tokens. A volume is averaged over neighbouring
    slices into at most `groups` layers of patches: 320 px give 25 tokens for a picture and 25 x groups for a volume,
    plus the notes.
    """

    def __init__(
        self, channels: Sequence[int], structures: int, width: int, *, hidden: int = 768, notes: int = 4,
        groups: int = 4,
    ) -> None:  # fmt: skip
        super().__init__()
        self.notes, self.groups = notes, groups
        self.features = 4 * channels[-1] + 2 * structures + sum(channels[-3:-1])
        self.patch = nn.Sequential(nn.Linear(self.features, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.note = nn.Sequential(nn.Linear(5 * structures, hidden), nn.GELU(), nn.Linear(hidden, notes * width))
        self.norm = nn.LayerNorm(width)
        self.gain = nn.Parameter(torch.full((width,), 1.0))

    def count(self, depth: int, side: int) -> int:
        """Tokens of a scan of `depth` slices whose coarsest level is `side` x `side`."""
        return min(depth, self.groups) * (-(-side // 2)) ** 2 + self.notes

    def gather(self, pyramid: Sequence[Tensor], logits: Tensor) -> Tensor:
        """pyramid, its last level (B, C, D, h, w); logits (B, K, D, 4h, 4w) -> (B, groups, h/2, w/2, features)."""
        coarse = pyramid[-1]
        depth = min(coarse.shape[2], self.groups)
        probability = logits.sigmoid()
        height, width = -(-coarse.shape[3] // 2), -(-coarse.shape[4] // 2)
        coarse = F.pad(coarse, (0, 2 * width - coarse.shape[4], 0, 2 * height - coarse.shape[3]))
        grid = F.adaptive_avg_pool3d(coarse, (depth, 2 * height, 2 * width))
        patches = grid.unflatten(4, (width, 2)).unflatten(3, (height, 2)).permute(0, 2, 3, 5, 4, 6, 1).flatten(-3)
        mean = F.adaptive_avg_pool3d(probability, (depth, height, width))
        peak = F.adaptive_max_pool3d(probability, (depth, height, width))
        finer = [F.adaptive_avg_pool3d(level, (depth, height, width)) for level in pyramid[-3:-1]]
        return torch.cat([patches, torch.cat([mean, peak, *finer], 1).permute(0, 2, 3, 4, 1)], -1)

    def forward(self, patches: Tensor, summary: Tensor) -> Tensor:
        """patches as gathered; summary (B, 5, K) -> (B, M, E)."""
        tokens = self.patch(patches).flatten(1, 3)
        notes = self.note(summary.flatten(1)).unflatten(1, (self.notes, -1))
        return self.norm(torch.cat([tokens, notes], 1)) * self.gain
