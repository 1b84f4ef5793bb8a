"""One answer for a whole scan: pooled features and a linear layer, so that the map behind each class can be shown."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["ClassifyHead"]


class ClassifyHead(nn.Module):
    """Global average pooling of some levels of a pyramid, then one linear layer (Lin et al., Network in Network, 2013).

    Because both are linear, the logit of a class is the sum of the means of maps over the scan: its class activation
    maps (Zhou et al., CVPR 2016), see `maps`.

    Args:
        channels: of the encoder's levels. classes: of the softmax. levels: which of the encoder's are pooled.
        dropout: of the pooled features, in training.
    """

    def __init__(
        self, channels: Sequence[int], classes: int, *, levels: list[int] | None = None, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.levels = levels or [len(channels) - 1]
        #: what is pooled: where Grad-CAM takes its gradients agrees with `maps`
        self.taps = nn.ModuleList(nn.Identity() for _ in self.levels)
        self.norms = nn.ModuleList(nn.LayerNorm(channels[level]) for level in self.levels)
        self.dropout = nn.Dropout(dropout)
        self.logits = nn.Linear(sum(channels[level] for level in self.levels), classes)

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        """pyramid: levels (B, C, d, h, w) -> logits (B, classes)."""
        logits: Tensor = self.logits(self.dropout(self.pooled(pyramid)))
        return logits

    def pooled(self, pyramid: list[Tensor]) -> Tensor:
        """(B, width): what the linear layer weighs."""
        return torch.cat([x.mean((2, 3, 4)) for x in self._seen(pyramid)], 1)

    def maps(self, pyramid: list[Tensor]) -> list[Tensor]:
        """(B, classes, d, h, w) of each pooled level: class activation maps. The means of a class's maps add up to its
        logit without the bias."""
        seen = self._seen(pyramid)
        parts = self.logits.weight.split([x.shape[1] for x in seen], 1)
        return [torch.einsum("kc,bcdhw->bkdhw", weight, x) for weight, x in zip(parts, seen, strict=True)]

    def _seen(self, pyramid: list[Tensor]) -> list[Tensor]:
        chosen = [pyramid[level] for level in self.levels]
        # channel by channel at each place: a norm over places would make one place's map depend on all others
        return [
            tap(norm(x.movedim(1, -1)).movedim(-1, 1))
            for tap, norm, x in zip(self.taps, self.norms, chosen, strict=True)
        ]
