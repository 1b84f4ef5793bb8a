"""What the eye saw, as words-sized vectors for the language model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Connector"]


class Connector(nn.Module):
    """Pyramid and structure maps -> (B, M, E) tokens.

    Each 2 x 2 patch of the coarsest level becomes one token (pixel shuffle, as in nanoVLM), joined by the probability
    of every structure in that patch; the numbers of the structure maps as a whole follow in `notes` more tokens. A
    volume is averaged over neighbouring slices into at most `groups` layers of patches: 320 px give 25 tokens for a
    picture and 25 x groups for a volume, plus the notes.
    """

    def __init__(
        self, channels: int, structures: int, width: int, *, hidden: int = 768, notes: int = 4, groups: int = 4
    ) -> None:
        super().__init__()
        self.notes, self.groups = notes, groups
        self.features = 4 * channels + 2 * structures
        self.patch = nn.Sequential(nn.Linear(self.features, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.note = nn.Sequential(nn.Linear(5 * structures, hidden), nn.GELU(), nn.Linear(hidden, notes * width))
        self.norm = nn.LayerNorm(width)
        self.gain = nn.Parameter(torch.full((width,), 1.0))

    def count(self, depth: int, side: int) -> int:
        """Tokens of a scan of `depth` slices whose coarsest level is `side` x `side`."""
        return min(depth, self.groups) * (-(-side // 2)) ** 2 + self.notes

    def gather(self, coarse: Tensor, logits: Tensor) -> Tensor:
        """coarse (B, C, D, h, w); logits (B, K, D, 4h, 4w) -> patches (B, groups, h/2, w/2, features)."""
        depth = min(coarse.shape[2], self.groups)
        probability = logits.sigmoid()
        height, width = -(-coarse.shape[3] // 2), -(-coarse.shape[4] // 2)
        coarse = F.pad(coarse, (0, 2 * width - coarse.shape[4], 0, 2 * height - coarse.shape[3]))
        grid = F.adaptive_avg_pool3d(coarse, (depth, 2 * height, 2 * width))
        patches = grid.unflatten(4, (width, 2)).unflatten(3, (height, 2)).permute(0, 2, 3, 5, 4, 6, 1).flatten(-3)
        mean = F.adaptive_avg_pool3d(probability, (depth, height, width))
        peak = F.adaptive_max_pool3d(probability, (depth, height, width))
        return torch.cat([patches, torch.cat([mean, peak], 1).permute(0, 2, 3, 4, 1)], -1)

    def forward(self, patches: Tensor, summary: Tensor) -> Tensor:
        """patches as gathered; summary (B, 5, K) -> (B, M, E)."""
        tokens = self.patch(patches).flatten(1, 3)
        notes = self.note(summary.flatten(1)).unflatten(1, (self.notes, -1))
        return self.norm(torch.cat([tokens, notes], 1)) * self.gain
