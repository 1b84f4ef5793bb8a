"""Teaches the language model to answer from what the eye sees: LoRA on its layers, the connector trained along."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medfm import assets
from medfm.data.questions import Case, both_sides, question_batches, stack_scans
from medfm.image import augment
from medfm.language.prompt import Packed, Prompt, pack
from medfm.metrics import exact_match
from medfm.model import MedFM, MedFMConfig, base_language, load_vision, save_adapter

__all__ = ["Instruct"]


class Instruct(nn.Module):
    """Loss on the answers only, all questions of one image packed behind one copy of its tokens.

    Args:
        model: `language` (name of the base), `vision` (a folder that `grounded` left, or an adapter's name),
            `lora` (arguments of peft.LoraConfig), `prompt`, `encoder`; or `adapter`, a trained one to go on from, with
            its own eye unless `vision` names another.
        data: `train` and optional `validate` lists of JSONL files; without `validate`, `hold` (share of the images).
        batch: images per step. questions: at most so many per image and step, drawn anew each time.
        slabs: share of the steps that see thin volumes. facts: share of the images whose modality, plane and body
            part are told as a file header would, each of the three more often than not.
        paraphrases: pattern -> other ways to ask, used for a share `reword` of the questions.
        open_eye: train the encoder too, at a tenth of the rate.
    """

    def __init__(
        self, *, model: dict[str, Any], data: dict[str, Any], batch: int = 8, questions: int = 12, slabs: float = 0.12,
        facts: float = 0.25, paraphrases: dict[str, list[str]] | None = None, reword: float = 0.15,
        open_eye: bool = False, checked: int = 48, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.questions, self.slabs, self.facts, self.reword = questions, slabs, facts, reword
        self.paraphrases = {re.compile(k, re.IGNORECASE): v for k, v in (paraphrases or {}).items()}
        self.open_eye, self.checked = open_eye, checked
        about, tensors = load_vision(model["vision"] if model.get("vision") else model["adapter"])
        language, tokenizer, digest = base_language(model["language"])
        vision = {
            "encoder": model["encoder"], "labels": about["labels"], "width": language.config.hidden_size,
            "glance": about.get("glance", 0),
        }  # fmt: skip
        config = MedFMConfig(
            vision=vision, prepare=about["prepare"], prompt=Prompt(**model.get("prompt", {})).to_dict(),
            language=model["language"], base=digest,
        )  # fmt: skip
        self.model = MedFM(config, language.requires_grad_(False), tokenizer)
        self.model.vision.load_state_dict(tensors)
        if not model.get("adapter"):  # a trained adapter has found its own loudness
            self._as_loud_as_words()
        self.model.vision.requires_grad_(open_eye)
        self.model.vision.connector.requires_grad_(True)
        if self.model.vision.glance:  # it has learned to find; now it learns to tell this language model
            self.model.vision.glance.requires_grad_(open_eye)
            self.model.vision.glance.say.requires_grad_(True)
            self.model.vision.glance.gain.requires_grad_(True)
        self.model.language = _with_lora(language, model["lora"], start=model.get("adapter"))
        self.cases, self.held = both_sides(data, self.model.preparation, seed=seed)
        self.batches = question_batches(self.cases, batch, seed=seed)

    @torch.no_grad()
    def _as_loud_as_words(self) -> None:
        """Scale the image tokens to the size of word vectors: much larger ones would drown what the layers add."""
        gain = self.model.vision.connector.gain
        gain.mul_(self.model.get_input_embeddings().weight.square().mean().sqrt() / gain.square().mean().sqrt())

    def train(self, mode: bool = True) -> Instruct:
        """A frozen eye keeps its stored statistics while the rest trains."""
        super().train(mode)
        if not self.open_eye:
            self.model.vision.eval()
            self.model.vision.connector.train(mode)
            if self.model.vision.glance:
                self.model.vision.glance.train(mode)
        return self

    def collate(self, indices: list[int]) -> dict[str, Tensor]:
        generator = self.batches.generator(indices)
        cases = [self.cases[i] for i in indices]
        x, spacing = stack_scans(cases)
        warped, _ = augment.warp_affine(x.flatten(1, 2), generator)
        x = augment.contrast(warped.unflatten(1, (3, -1)), generator)
        if x.shape[2] == 1 and torch.rand((), generator=generator) < self.slabs:
            depth = int(torch.randint(2, 5, (), generator=generator))
            x, spacing = augment.slab(x[:, :, 0], generator, depth=depth)
        images = self.model.vision.connector.count(x.shape[2], x.shape[-1] // 32)
        count = self.model.config.vision["glance"]
        texts = [(images, *self._text(c, generator)) for c in cases]
        packed = pack(self.model.prompt, self.model.tokenizer, texts, glance=count)
        return {"x": x, "spacing": spacing, **vars(packed)}

    def _text(self, case: Case, generator: torch.Generator) -> tuple[str, list[str], list[str]]:
        order = torch.randperm(len(case.questions), generator=generator)[: self.questions].tolist()
        told = torch.rand((), generator=generator) < self.facts
        facts = case.prepared.facts or (case.facts if told else "")
        facts = ", ".join(f for f in facts.split(", ") if torch.rand((), generator=generator) < 0.75)
        return (
            facts,
            [self._reworded(case.questions[i], generator) for i in order],
            [_tidy(case.answers[i]) for i in order],
        )

    def _reworded(self, question: str, generator: torch.Generator) -> str:
        if torch.rand((), generator=generator) < self.reword:
            for pattern, ways in self.paraphrases.items():
                if found := pattern.fullmatch(question):
                    way = ways[int(torch.randint(len(ways), (), generator=generator))]
                    return way.format(*found.groups())
        return question

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        packed = Packed(**{field.name: batch[field.name] for field in fields(Packed)})
        vision = self.model.vision
        with torch.set_grad_enabled(self.open_eye and torch.is_grad_enabled()):
            pyramid, logits = vision.look(batch["x"], batch["spacing"])
        seen = vision.describe(pyramid, logits)
        return {"loss": self.model.answer_loss(self.model.embed(packed, seen), packed)[0]}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Exact match of greedy answers on some held-out images, evenly spread, by modality and over all ("score")."""
        right: Counter[str] = Counter()
        total: Counter[str] = Counter()
        for case in self.held[:: max(1, len(self.held) // self.checked)]:
            said = self.model.respond(case.prepared, case.questions, limit=24)
            for (text, _), answer in zip(said, case.answers, strict=True):
                right[case.modality] += int(exact_match(text, answer))
                total[case.modality] += 1
        shares = {f"right {name}": right[name] / total[name] for name in sorted(total)}
        return {"score": right.total() / max(total.total(), 1), **shares}

    def parameter_groups(self, rate: float) -> list[dict[str, Any]]:
        ours = ("connector", "glance")
        eye = {id(p) for n, p in self.model.vision.named_parameters() if not n.startswith(ours)}
        rest = [p for p in self.parameters() if p.requires_grad and id(p) not in eye]
        old = [p for p in self.model.vision.parameters() if p.requires_grad and id(p) in eye]
        return [{"params": rest, "lr": rate}] + ([{"params": old, "lr": rate / 10}] if old else [])

    def save(self, folder: Path) -> None:
        save_adapter(self.model, folder)


def _with_lora(language: Any, options: dict[str, Any], *, start: str | None) -> Any:
    from peft import LoraConfig, PeftModel, get_peft_model

    if start:
        return PeftModel.from_pretrained(language, str(assets.adapter_folder(start)), is_trainable=True)
    return get_peft_model(language, LoraConfig(task_type="CAUSAL_LM", **options))


def _tidy(answer: str) -> str:
    """One spelling per answer: "yes" and "Yes", or a doubled space, would split the model's confidence."""
    answer = " ".join(answer.split()).rstrip(".")
    return answer[:1].upper() + answer[1:]
