"""Teaches the second look: with the eye frozen, the words of a question find among its patches what answers it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medfm.data.questions import both_sides, question_batches
from medfm.data.rewording import Rewording
from medfm.data.views import look_at, stack_looks
from medfm.language.glance import Panel
from medfm.model import load_vision
from medfm.objectives.choosing import Choosing, known_answers
from medfm.objectives.groups import at_one_rate
from medfm.prepare import Prepare
from medfm.vision import Vision, load_fitting

__all__ = ["Glances"]


class Glances(nn.Module):
    """The second look chooses among the known answers; the frozen eye has looked at every picture beforehand.

    Args:
        model: `language` (whose word vectors the questions are read in), `encoder`, and `vision` (a folder that
            `grounded` left) or `adapter` (a name).
        data: `train` and optional `validate` lists of JSONL files; without `validate`, `hold` (share of the images).
        batch: images per step. views: changed copies of every picture, see `look_at`. looks: members of the panel.
        paraphrases: pattern -> other ways to ask, used for a share `reword` of the questions.
    """

    def __init__(
        self, *, model: dict[str, Any], data: dict[str, Any], batch: int = 24, views: int = 6, looks: int = 3,
        paraphrases: dict[str, list[str]] | None = None, reword: float = 0.15, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        about, tensors = load_vision(model["vision"] if model.get("vision") else model["adapter"])
        self.cases, self.held = both_sides(data, Prepare.from_dict(about["prepare"]), seed=seed)
        self.batches = question_batches(self.cases, batch, seed=seed)
        self.rewording = Rewording(paraphrases or {}, share=reword)
        answers = known_answers(self.cases, least=1)  # one given once is right again more often than none
        self.choosing = Choosing(answers, language=model["language"], prompt=model.get("prompt", {}))
        self.about = {"labels": about["labels"], "prepare": about["prepare"], "answers": answers, "looks": looks}
        self.vision = Vision(
            encoder=model["encoder"], labels=about["labels"], width=self.choosing.width,
            answers=about.get("answers") or answers, looks=looks,
        )  # fmt: skip
        load_fitting(self.vision, tensors)
        self.vision.know(answers)
        self.vision.requires_grad_(False)
        self.glance.requires_grad_(True)
        self.views = look_at(self.vision, self.cases, views=views)
        self.shown = look_at(self.vision, self.held, views=1)[0]

    @property
    def glance(self) -> Panel:
        assert self.vision.glance is not None
        return self.vision.glance

    def train(self, mode: bool = True) -> Glances:
        """The frozen eye keeps its stored statistics."""
        super().train(mode)
        self.vision.eval()
        self.glance.train(mode)
        return self

    def collate(self, indices: list[int]) -> dict[str, Tensor]:
        generator = self.batches.generator(indices)
        view = self.views[int(torch.randint(len(self.views), (), generator=generator))]
        plain = stack_looks([view[i] for i in indices]).plain
        cases = [self.cases[i] for i in indices]
        asked = [replace(c, questions=[self.rewording(q, generator) for q in c.questions]) for c in cases]
        return {"plain": plain, **self.choosing.batch(asked)}

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        memories = self.glance.remember(batch["plain"]).unbind(1)
        each = [self.choosing.loss(m, seen, batch) for m, seen in zip(self.glance.members, memories, strict=True)]
        loss, right = torch.stack([torch.stack(pair) for pair in each]).mean(0)
        return {"loss": loss, "right": right}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Share of held-out questions answered right, for each modality and over all ("score")."""
        device = next(self.parameters()).device

        def memory(number: int) -> Tensor:
            return self.glance.remember(stack_looks([self.shown[number]]).plain.to(device))

        return self.choosing.score(self.glance, self.held, memory)

    def parameter_groups(self, rate: float) -> list[dict[str, Any]]:
        return at_one_rate(self, rate)

    def save(self, folder: Path) -> None:
        """`vision.safetensors` and `vision.json`: the eye with its second look."""
        self.vision.write(folder / "vision.safetensors")
        (folder / "vision.json").write_text(json.dumps(self.about, indent=1, ensure_ascii=False))
