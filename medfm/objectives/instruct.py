"""Teaches the language model to answer from what the eye sees: LoRA on its layers, the connector trained along."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medfm import assets
from medfm.data.questions import Case, both_sides, question_batches
from medfm.data.rewording import Rewording
from medfm.data.views import look_at, stack_looks
from medfm.language.prompt import Packed, Prompt, hint_of, pack
from medfm.language.quiet import adapting
from medfm.metrics import exact_match
from medfm.model import MedFM, MedFMConfig, base_language, check_base, load_vision, save_adapter
from medfm.objectives.choosing import tidy
from medfm.objectives.groups import at_one_rate
from medfm.vision import Glimpse

__all__ = ["Instruct"]


class Instruct(nn.Module):
    """Loss on the answers only, all questions of one image packed behind one copy of its tokens.

    Args:
        model: `language` (name of the base), `vision` (a folder that `grounded` or `glance` left, or an adapter's
            name), `lora` (arguments of peft.LoraConfig), `prompt`, `encoder`; or `adapter`, a trained one to go on
            from, with its own eye unless `vision` names another; `four_bits` for a base in NF4 on a GPU.
        data: `train` and optional `validate` lists of JSONL files; without `validate`, `hold` (share of the images).
        batch: images per step. questions: at most so many per image and step, drawn anew each time.
        views: changed copies of every picture that the frozen eye looks at beforehand, see `look_at`.
        facts: share of the images whose modality, plane and body part are told as a file header would, each of the
            three more often than not. hints: share of the questions told what the second look proposes.
        paraphrases: pattern -> other ways to ask, used for a share `reword` of the questions.
    """

    def __init__(
        self, *, model: dict[str, Any], data: dict[str, Any], batch: int = 8, questions: int = 12, views: int = 5,
        facts: float = 0.25, hints: float = 0.9, paraphrases: dict[str, list[str]] | None = None, reword: float = 0.15,
        checked: int = 48, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.questions, self.facts, self.hints, self.checked = questions, facts, hints, checked
        self.rewording = Rewording(paraphrases or {}, share=reword)
        about, tensors = load_vision(model["vision"] if model.get("vision") else model["adapter"])
        language, tokenizer, digest = base_language(model["language"], four_bits=model.get("four_bits", False))
        if model.get("adapter"):
            check_base(assets.adapter_folder(model["adapter"]), digest)
        vision = {
            "encoder": model["encoder"], "labels": about["labels"], "width": language.config.hidden_size,
            "answers": about.get("answers", []), "looks": about["looks"],
        }  # fmt: skip
        config = MedFMConfig(
            vision=vision, prepare=about["prepare"], prompt=Prompt(**model.get("prompt", {})).to_dict(),
            language=model["language"], base=digest,
        )  # fmt: skip
        self.model = MedFM(config, language.requires_grad_(False), tokenizer)
        self.model.vision.load_state_dict(tensors)
        if not model.get("adapter"):  # a trained adapter has found its own loudness
            self._as_loud_as_words()
        self.model.vision.requires_grad_(False).connector.requires_grad_(True)
        self.model.language = _with_lora(language, model["lora"], start=model.get("adapter"))
        self.cases, self.held, self.views = self._read(data, views=views, seed=seed)
        self.batches = question_batches(self.cases, batch, seed=seed)
        self.proposed = self._proposals()

    def _read(
        self, data: dict[str, Any], *, views: int, seed: int
    ) -> tuple[list[Case], list[Case], list[list[Glimpse]]]:
        """Cases to learn from, held-out ones, and what the frozen eye sees of the former."""
        cases, held = both_sides(data, self.model.preparation, seed=seed)
        return cases, held, look_at(self.model.vision, cases, views=views)

    def _proposals(self) -> list[list[list[str]]]:
        """What the panel proposes: of each view, each case, each question."""
        return [[self._propose(c, look) for c, look in zip(self.cases, v, strict=True)] for v in self.views]

    @torch.no_grad()
    def _as_loud_as_words(self) -> None:
        """Scale the image tokens to the size of word vectors: much larger ones would drown what the layers add."""
        gain = self.model.vision.connector.gain
        gain.mul_(self.model.get_input_embeddings().weight.square().mean().sqrt() / gain.square().mean().sqrt())

    @torch.no_grad()
    def _propose(self, case: Case, look: Glimpse, *, only: int | None = None) -> list[str]:
        panel = self.model.vision.glance
        if panel is None:
            return [""] * len(case.questions)
        memory = panel.remember(stack_looks([look]).plain)
        return [hint_of(c) for c in self.model.candidates(memory, case.questions, only=only)]

    def train(self, mode: bool = True) -> Instruct:
        """The frozen eye keeps its stored statistics while the rest trains."""
        super().train(mode)
        self.model.vision.eval()
        self.model.vision.connector.train(mode)
        return self

    def collate(self, indices: list[int]) -> dict[str, Tensor]:
        generator = self.batches.generator(indices)
        view = int(torch.randint(len(self.views), (), generator=generator))
        patches, summary, _ = stack_looks([self.views[view][i] for i in indices])
        images = patches.shape[1:4].numel() + self.model.vision.connector.notes
        texts = [(images, *self._text(self.cases[i], self.proposed[view][i], generator)) for i in indices]
        packed = pack(self.model.prompt, self.model.tokenizer, texts)
        return {"patches": patches, "summary": summary, **vars(packed)}

    def _text(
        self, case: Case, proposed: list[str], generator: torch.Generator
    ) -> tuple[str, list[str], list[str], list[str]]:
        def sometimes(share: float) -> bool:
            return bool(torch.rand((), generator=generator) < share)

        order = torch.randperm(len(case.questions), generator=generator)[: self.questions].tolist()
        facts = case.prepared.facts or (case.facts if sometimes(self.facts) else "")
        facts = ", ".join(f for f in facts.split(", ") if sometimes(0.75))
        return (
            facts,
            [self.rewording(case.questions[i], generator) for i in order],
            [proposed[i] if sometimes(self.hints) else "" for i in order],
            [tidy(case.answers[i]) for i in order],
        )

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        packed = Packed(**{field.name: batch[field.name] for field in fields(Packed)})
        tokens = self.model.vision.connector(batch["patches"], batch["summary"])
        return {"loss": self.model.answer_loss(self.model.embed(packed, tokens), packed)[0]}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Exact match of greedy answers on some held-out images, evenly spread, by modality and over all ("score")."""
        right: Counter[str] = Counter()
        total: Counter[str] = Counter()
        for case in self.held[:: max(1, len(self.held) // self.checked)]:
            said = self._respond(case)
            for (text, _), answer in zip(said, case.answers, strict=True):
                right[case.modality] += int(exact_match(text, answer))
                total[case.modality] += 1
        shares = {f"right {name}": right[name] / total[name] for name in sorted(total)}
        return {"score": right.total() / max(total.total(), 1), **shares}

    def _respond(self, case: Case) -> list[tuple[str, float]]:
        return self.model.respond(case.prepared, case.questions, limit=24)

    def parameter_groups(self, rate: float) -> list[dict[str, Any]]:
        return at_one_rate(self, rate)

    def save(self, folder: Path) -> None:
        save_adapter(self.model, folder)


def _with_lora(language: Any, options: dict[str, Any], *, start: str | None) -> Any:
    from peft import LoraConfig, PeftModel, get_peft_model

    with adapting():
        if start:
            return PeftModel.from_pretrained(language, str(assets.adapter_folder(start)), is_trainable=True)
        return get_peft_model(language, LoraConfig(task_type="CAUSAL_LM", **options))
