"""Questions without a language model: a second look chooses among the answers of the training set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medfm.data.questions import Case
from medfm.language.glance import Glance, Panel
from medfm.language.prompt import Prompt
from medfm.metrics import normalise_answer
from medfm.model import base_language

__all__ = ["Choosing", "known_answers", "tidy"]


def tidy(answer: str) -> str:
    """One spelling per answer: "yes" and "Yes", or a doubled space, would split the model's confidence."""
    answer = " ".join(answer.split()).rstrip(".")
    return answer[:1].upper() + answer[1:]


def known_answers(cases: Sequence[Case], *, least: int = 2) -> list[str]:
    """Answers given to at least so many questions, each in its commonest spelling, sorted."""
    spellings: dict[str, Counter[str]] = {}
    for case in cases:
        for answer in map(tidy, case.answers):
            spellings.setdefault(normalise_answer(answer), Counter())[answer] += 1
    return sorted(max(found, key=found.__getitem__) for found in spellings.values() if found.total() >= least)


class Choosing:
    """Reads questions in the word vectors of a language model; loss and score of a glance over `answers`.

    Args:
        answers: that can be chosen. language: the base whose word vectors the questions are read in. prompt: as the
            language model will get it.
    """

    def __init__(self, answers: Sequence[str], *, language: str, prompt: dict[str, Any]) -> None:
        base, self.tokenizer, _ = base_language(language)
        self.words: Tensor = base.get_input_embeddings().weight.detach()
        self.width = self.words.shape[1]
        self.prompt = Prompt(**prompt)
        self.number = {normalise_answer(a): i for i, a in enumerate(answers)}

    def batch(self, cases: Sequence[Case]) -> dict[str, Tensor]:
        """All questions of the cases: tokens `asked` (N, L), -1 = padding, `row` (N,) of its case, `answer` (N,), -1
        where it is not among the known ones."""
        return {
            "asked": self.prompt.padded(self.tokenizer, [q for c in cases for q in c.questions]),
            "row": torch.tensor([row for row, c in enumerate(cases) for _ in c.questions]),
            "answer": torch.tensor([self.number.get(normalise_answer(a), -1) for c in cases for a in c.answers]),
        }

    def loss(self, glance: Glance | Panel, memory: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Cross-entropy over the known answers, smoothed, and the share chosen right."""
        chosen = self.chosen(glance, memory, batch)
        right = (chosen.argmax(-1) == batch["answer"]).float().mean()
        return F.cross_entropy(chosen, batch["answer"], label_smoothing=0.05, ignore_index=-1), right

    def chosen(self, glance: Glance | Panel, memory: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Logits (N, answers) over what `glance` remembers of each case."""
        self.words = self.words.to(memory.device)
        real = batch["asked"] >= 0
        lengths = real.sum(1)
        order = lengths.argsort()
        found = []
        for rows in order.split(32):  # alike in length: one long question would pad them all, at twice the cost
            longest = int(lengths[rows].max())
            words = F.embedding(batch["asked"][rows, :longest].clamp(min=0), self.words)
            found.append(glance(words, real[rows, :longest], memory, batch["row"][rows]))
        return torch.cat(found)[order.argsort()]

    @torch.no_grad()
    def score(self, glance: Panel, cases: Sequence[Case], memory: Callable[[int], Tensor]) -> dict[str, float]:
        """Share of the cases' questions answered right, for each modality and over all ("score")."""
        right: Counter[str] = Counter()
        total: Counter[str] = Counter()
        for number, case in enumerate(cases):
            batch = self.batch([case])
            looked = memory(number)
            batch = {name: tensor.to(looked.device) for name, tensor in batch.items()}
            right[case.modality] += int((self.chosen(glance, looked, batch).argmax(-1) == batch["answer"]).sum())
            total[case.modality] += len(case.questions)
        shares = {f"right {name}": right[name] / total[name] for name in sorted(total)}
        return {"score": right.total() / max(total.total(), 1), **shares}
