"""One answer for a bag of cells, by attention that says which cells it rests on: CLAM over any encoder's pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Bag", "BagHead", "smooth_svm"]


class Bag(NamedTuple):
    """logits (classes,); attention (branches, N), each row sums to 1; hidden (N, H), what the attention saw."""

    logits: Tensor
    attention: Tensor
    hidden: Tensor


class BagHead(nn.Module):
    """Gated attention over instances (Ilse et al., ICML 2018) with clustering of the most and least attended ones
    (CLAM, Lu et al., Nature Biomedical Engineering 2021). A bag is the cells of one level, or any features.

    Args:
        channels: of the encoder's levels. classes: of the softmax. level: whose cells are the instances.
        hidden, inner: widths of the first layer and of the attention. branches: an attention of its own for each class
            (CLAM-MB), or one for all (CLAM-SB, False).
        ends: how many of the most and of the least attended instances get pseudo-labels. exclusive: classes exclude
            each other, so that what another class attends to is negative too (their "subtyping").
    """

    def __init__(
        self, channels: Sequence[int], classes: int, *, level: int = -1, hidden: int = 512, inner: int = 256,
        dropout: float = 0.25, branches: bool = False, ends: int = 8, exclusive: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.level, self.classes, self.ends, self.exclusive = level, classes, ends, exclusive
        self.enter = nn.Sequential(nn.Linear(channels[level], hidden), nn.ReLU(), nn.Dropout(dropout))
        self.content = nn.Sequential(nn.Linear(hidden, inner), nn.Tanh(), nn.Dropout(dropout))
        self.gate = nn.Sequential(nn.Linear(hidden, inner), nn.Sigmoid(), nn.Dropout(dropout))
        self.weigh = nn.Linear(inner, classes if branches else 1)
        self.logits = nn.ModuleList(nn.Linear(hidden, 1) for _ in range(classes))
        self.instances = nn.ModuleList(nn.Linear(hidden, 2) for _ in range(classes))

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        """pyramid: levels (B, C, d, h, w) -> logits (B, classes)."""
        return torch.stack([self.read(cells).logits for cells in self.bags(pyramid)])

    def bags(self, pyramid: list[Tensor]) -> Tensor:
        """(B, N, C): the cells of the level."""
        return pyramid[self.level].flatten(2).transpose(1, 2)

    def read(self, bag: Tensor) -> Bag:
        """bag: (N, C), any N."""
        h = self.enter(bag)
        attention = self.weigh(self.content(h) * self.gate(h)).T.softmax(1)
        pooled = attention @ h
        rows = pooled if len(pooled) == self.classes else pooled.expand(self.classes, -1)
        logits = torch.cat([layer(row) for layer, row in zip(self.logits, rows, strict=True)])
        return Bag(logits, attention, h)

    def instance_loss(self, bag: Bag, label: int) -> Tensor:
        """The most attended instances are of the bag's class, the least attended are not (pseudo-labels), by smooth
        SVM; the mean over the classes that are asked."""
        count = min(self.ends, bag.hidden.shape[0] // 2)
        losses = []
        for k, layer in enumerate(self.instances):
            row = bag.attention[k if len(bag.attention) > 1 else 0]
            most = row.topk(count).indices
            if k == label:
                chosen = torch.cat([most, (-row).topk(count).indices])
                target = torch.cat([torch.ones(count), torch.zeros(count)]).long()
            elif self.exclusive:
                chosen, target = most, torch.zeros(count, dtype=torch.long)
            else:
                continue
            losses.append(smooth_svm(layer(bag.hidden[chosen]), target.to(row.device)))
        return torch.stack(losses).mean()


def smooth_svm(logits: Tensor, target: Tensor, *, margin: float = 1.0) -> Tensor:
    """Smooth top-1 SVM loss (Berrada et al., ICLR 2018): the log-sum-exp of the margins that are missed."""
    away = margin * (1 - F.one_hot(target, logits.shape[1]).to(logits))
    own = logits.gather(1, target[:, None])
    return torch.logsumexp(logits + away - own, 1).mean()
