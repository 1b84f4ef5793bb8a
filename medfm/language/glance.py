"""A second look with the question in mind: which of the known answers fits, before the language model speaks."""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Glance", "Panel"]


class Glance(nn.Module):
    """Question words attend to the patches of a scan and weigh the known answers.

    The scan is encoded once (`remember`); a question costs two small attention layers. The likeliest answers are told
    to the language model as text behind the question, the answer heuristics of Prophet (Shao et al., CVPR 2023): it
    would need many passes to dig out of patches what this look learns in minutes (objectives/glance.py).

    Args:
        features: numbers per patch. width: of a word vector. answers: number of known answers.
    """

    def __init__(self, features: int, width: int, *, answers: int, inner: int = 168) -> None:
        super().__init__()
        # stages differ in loudness by an order: each number is judged by its own spread before they are compared
        self.loudness = nn.BatchNorm1d(features, momentum=0.01, affine=False)
        self.patch = nn.Sequential(nn.LayerNorm(features), nn.Linear(features, inner))
        self.place = nn.Sequential(nn.Linear(3, 64), nn.GELU(), nn.Linear(64, inner))
        self.words = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner))
        self.order = nn.GRU(inner, inner // 2, bidirectional=True, batch_first=True)
        self.layers = nn.ModuleList(_Layer(inner) for _ in range(2))
        self.norm = nn.LayerNorm(inner)
        self.choose = nn.Sequential(
            nn.Dropout(0.3), nn.Linear(2 * inner, 2 * inner), nn.GELU(), nn.Dropout(0.3), nn.Linear(2 * inner, answers)
        )  # fmt: skip

    def remember(self, patches: Tensor) -> Tensor:
        """patches (B, D, h, w, F) -> (B, D h w, inner): all that a question can look at."""
        axes = [
            torch.linspace(-1, 1, n, device=patches.device) if n > 1 else patches.new_zeros(1)
            for n in patches.shape[1:4]
        ]
        places = self.place(torch.stack(torch.meshgrid(*axes, indexing="ij"), -1))
        even = self.loudness(patches.flatten(0, 3)).view_as(patches)
        return (self.patch(even) + places).flatten(1, 3)

    def forward(self, words: Tensor, real: Tensor, memory: Tensor, row: Tensor) -> Tensor:
        """words (N, L, E), `real` (N, L) false at padding; memory (B, M, inner), of which each question looks at its
        `row` (N,) -> logits (N, answers)."""
        logits: Tensor = self.choose(self.gist(words, real, memory, row))
        return logits

    def gist(self, words: Tensor, real: Tensor, memory: Tensor, row: Tensor) -> Tensor:
        """What the question and what it found come to, (N, 2 inner)."""
        asked = self.words(words).masked_fill(~real[..., None], 0)
        lengths = real.sum(1).clamp(min=1)
        packed = nn.utils.rnn.pack_padded_sequence(asked, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = nn.utils.rnn.pad_packed_sequence(
            self.order(packed)[0], batch_first=True, total_length=words.shape[1]
        )
        found = states
        for layer in self.layers:
            found = layer(found, real, memory, row)
        found = self.norm(found).masked_fill(~real[..., None], 0)
        return torch.cat([found.sum(1) / lengths[:, None], states.masked_fill(~real[..., None], -10).amax(1)], -1)


class _Layer(nn.Module):
    """Words attend to each other, then to what the scan shows. A scan's keys and values are computed once for all the
    questions about it, half of the work of torch's decoder layer."""

    def __init__(self, width: int, *, heads: int = 4, dropout: float = 0.2) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.own, self.own_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.query, self.seen, self.seen_out = (nn.Linear(width, n * width) for n in (1, 2, 1))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, real: Tensor, memory: Tensor, row: Tensor) -> Tensor:
        """x (N, L, E), real (N, L); memory (B, M, E), row (N,) -> (N, L, E)."""
        query, key, value = self._split(self.own(self.norms[0](x)), 3)
        x = x + self._drop(self.own_out(self._attend(query, key, value, real[:, None, None])))
        query = self._split(self.query(self.norms[1](x)), 1)[0]
        key, value = (part[row] for part in self._split(self.seen(memory), 2))
        x = x + self._drop(self.seen_out(self._attend(query, key, value, None)))
        return x + self._drop(self.down(self._drop(F.gelu(self.up(self.norms[2](x))))))

    def _split(self, x: Tensor, count: int) -> Tensor:
        """(N, L, count E) -> (count, N, heads, L, E / heads)."""
        return x.unflatten(-1, (count, self.heads, -1)).permute(2, 0, 3, 1, 4)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        return found.transpose(1, 2).flatten(2)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class Panel(nn.Module):
    """Several second looks, each started from other numbers; their mean answers (deep ensemble; Lakshminarayanan et
    al., NeurIPS 2017).

    Args:
        looks: number of members. The others: see `Glance`.
    """

    def __init__(self, features: int, width: int, *, answers: int, looks: int = 1) -> None:
        super().__init__()
        each = (Glance(features, width, answers=answers) for _ in range(looks))
        self.members = cast("list[Glance]", nn.ModuleList(each))

    def remember(self, patches: Tensor) -> Tensor:
        """As `Glance.remember`, of every member: (B, looks, M, inner)."""
        return torch.stack([member.remember(patches) for member in self.members], 1)

    def forward(
        self, words: Tensor, real: Tensor, memory: Tensor, row: Tensor, *, only: int | None = None
    ) -> Tensor:  # fmt: skip
        """Logarithm of the mean probability (N, answers), over memory (B, looks, M, inner); of the member `only`."""
        chosen = self.members if only is None else [self.members[only]]
        numbers = range(len(self.members)) if only is None else [only]
        said = [m(words, real, memory[:, n], row).log_softmax(-1) for n, m in zip(numbers, chosen, strict=True)]
        return torch.stack(said).logsumexp(0) - math.log(len(said))
