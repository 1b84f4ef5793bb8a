"""A second look with the question in mind: which of the known answers fits, before the language model speaks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Glance"]


class Glance(nn.Module):
    """Question words attend to the patches of the pyramid and weigh the known answers.

    The scan is encoded once (`remember`); a question costs two small attention layers. The likeliest answers are told
    to the language model as text behind the question, the answer heuristics of Prophet (Shao et al., CVPR 2023): it
    would need many passes to dig out of patches what this look learns in minutes (objectives/glance.py).

    Args:
        features: numbers per patch, see Connector.gather. structures: of the structure maps. width: of a word vector.
        answers: number of known answers.
    """

    def __init__(self, features: int, structures: int, width: int, *, answers: int, inner: int = 256) -> None:
        super().__init__()
        self.patch = nn.Sequential(nn.LayerNorm(features), nn.Linear(features, inner))
        self.place = nn.Sequential(nn.Linear(3, 64), nn.GELU(), nn.Linear(64, inner))
        self.structures = nn.Parameter(torch.randn(structures, inner) * 0.5)
        self.about = nn.Sequential(nn.Linear(5, 64), nn.GELU(), nn.Linear(64, inner))
        self.words = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner))
        self.order = nn.GRU(inner, inner // 2, bidirectional=True, batch_first=True)
        layer = nn.TransformerDecoderLayer(inner, 4, 2 * inner, 0.2, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerDecoder(layer, 2, nn.LayerNorm(inner))
        self.choose = nn.Sequential(
            nn.Dropout(0.3), nn.Linear(2 * inner, 2 * inner), nn.GELU(), nn.Dropout(0.3), nn.Linear(2 * inner, answers)
        )  # fmt: skip

    def remember(self, patches: Tensor, summary: Tensor) -> Tensor:
        """patches (B, D, h, w, F), summary (B, 5, K) -> (B, D h w + K, inner): all that a question can look at, every
        patch and every structure with its size and place."""
        axes = [
            torch.linspace(-1, 1, n, device=patches.device) if n > 1 else patches.new_zeros(1)
            for n in patches.shape[1:4]
        ]
        places = self.place(torch.stack(torch.meshgrid(*axes, indexing="ij"), -1))
        structures = self.structures + self.about(summary.transpose(1, 2))
        return torch.cat([(self.patch(patches) + places).flatten(1, 3), structures], 1)

    def forward(self, words: Tensor, real: Tensor, memory: Tensor) -> Tensor:
        """words (N, L, E), `real` (N, L) false at padding; memory (N, M, inner) -> logits (N, answers)."""
        asked = self.words(words).masked_fill(~real[..., None], 0)
        lengths = real.sum(1).clamp(min=1)
        packed = nn.utils.rnn.pack_padded_sequence(asked, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = nn.utils.rnn.pad_packed_sequence(
            self.order(packed)[0], batch_first=True, total_length=words.shape[1]
        )
        found = self.layers(states, memory, tgt_key_padding_mask=~real).masked_fill(~real[..., None], 0)
        gist = torch.cat([found.sum(1) / lengths[:, None], states.masked_fill(~real[..., None], -10).amax(1)], -1)
        logits: Tensor = self.choose(gist)
        return logits
