"""Questions without a language model: the glance's vectors choose among the answers of the training set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm.data.questions import Case
from medfm.language.glance import Glance
from medfm.language.prompt import Prompt
from medfm.metrics import normalise_answer
from medfm.model import base_language

__all__ = ["Choosing"]


class Choosing(nn.Module):
    """One linear layer over a question's glance, thrown away after training.

    Args:
        cases: whose answers can be chosen. language: the base whose word vectors the questions are read in.
        prompt: as the language model will get it. count: vectors of a glance.
    """

    def __init__(self, cases: Sequence[Case], *, language: str, prompt: dict[str, Any], count: int) -> None:
        super().__init__()
        base, self.tokenizer, _ = base_language(language)
        self.words: Tensor = base.get_input_embeddings().weight.detach()
        self.width = self.words.shape[1]
        self.loudness = float(self.words.square().mean().sqrt())
        self.prompt = Prompt(**prompt)
        self.answers = {a: i for i, a in enumerate(sorted({normalise_answer(a) for c in cases for a in c.answers}))}
        self.choose = nn.Linear(count * self.width, len(self.answers))

    def batch(self, cases: Sequence[Case]) -> dict[str, Tensor]:
        """All questions of the cases: tokens `asked` (N, L), -1 = padding, `row` (N,) of its case, `answer` (N,)."""
        asked = [torch.tensor(self.prompt.question(self.tokenizer, q)) for c in cases for q in c.questions]
        return {
            "asked": nn.utils.rnn.pad_sequence(asked, batch_first=True, padding_value=-1),
            "row": torch.tensor([row for row, c in enumerate(cases) for _ in c.questions]),
            "answer": torch.tensor([self.answers.get(normalise_answer(a), -1) for c in cases for a in c.answers]),
        }

    def forward(self, glance: Glance, memory: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Cross-entropy over the known answers, smoothed, and the share chosen right."""
        chosen = self.chosen(glance, memory, batch)
        right = (chosen.argmax(-1) == batch["answer"]).float().mean()
        return F.cross_entropy(chosen, batch["answer"], label_smoothing=0.05), right

    def chosen(self, glance: Glance, memory: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Logits (N, answers)."""
        words = F.embedding(batch["asked"].clamp(min=0), self.words.to(memory.device))
        said = glance(words, batch["asked"] >= 0, memory[batch["row"]])
        logits: Tensor = self.choose(said.flatten(1) / self.loudness)
        return logits

    @torch.no_grad()
    def score(self, glance: Glance, cases: Sequence[Case], memory: Callable[[int], Tensor]) -> dict[str, float]:
        """Share of the cases' questions answered right, for each modality and over all ("score")."""
        right: Counter[str] = Counter()
        total: Counter[str] = Counter()
        for number, case in enumerate(cases):
            batch = self.batch([case])
            right[case.modality] += int(
                (self.chosen(glance, memory(number), batch).argmax(-1) == batch["answer"]).sum()
            )
            total[case.modality] += len(case.questions)
        shares = {f"right {name}": right[name] / total[name] for name in sorted(total)}
        return {"score": right.total() / max(total.total(), 1), **shares}
