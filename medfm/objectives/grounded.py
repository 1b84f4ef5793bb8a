"""Trains the eye without a language model: find the structures, and answer by choosing among known answers."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from medfm import assets
from medfm.data.questions import Case, both_sides, question_batches, stack_scans, structure_target
from medfm.image import augment
from medfm.losses import map_loss, soft_max_pool
from medfm.prepare import Prepare
from medfm.vision import Vision

__all__ = ["Grounded"]


class Reader(nn.Module):
    """Question words attend to the eye's tokens and choose an answer; used in training only, then thrown away.

    It reads the very tokens a language model will get, so what it needs must be in them.
    """

    def __init__(self, width: int, words: int, answers: int, *, inner: int = 256) -> None:
        super().__init__()
        self.words = nn.Embedding(words + 1, inner, padding_idx=0)
        self.order = nn.GRU(inner, inner // 2, bidirectional=True, batch_first=True)
        self.tokens = nn.Linear(width, inner)
        layer = nn.TransformerDecoderLayer(inner, 4, 2 * inner, 0.2, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerDecoder(layer, 2, nn.LayerNorm(inner))
        self.answer = nn.Sequential(
            nn.Dropout(0.3), nn.Linear(2 * inner, 2 * inner), nn.GELU(), nn.Dropout(0.3),
            nn.Linear(2 * inner, answers),
        )  # fmt: skip

    def forward(self, question: Tensor, tokens: Tensor) -> Tensor:
        """question (N, L) word numbers, 0 = padding; tokens (N, M, E) -> (N, answers)."""
        empty = question == 0
        states = self.order(self.words(question))[0]
        y = self.layers(states, self.tokens(tokens), tgt_key_padding_mask=empty).masked_fill(empty[..., None], 0)
        mean = y.sum(1) / (~empty).sum(1, keepdim=True).clamp(min=1)
        return self.answer(torch.cat([mean, states.masked_fill(empty[..., None], -10).amax(1)], -1))


class Grounded(nn.Module):
    """Structure maps from boxes and masks, plus answers, on pictures and thin slabs.

    Args:
        model: `encoder` node and `width` of the tokens.
        data: `train` and optional `validate` lists of JSONL files; without `validate`, `hold` (share of the images).
        mask_values: grey value of mask.png -> structure.
        batch: images per step. slabs: share of the steps that see a thin volume instead of pictures.
        maps: weight of the structure maps beside the answers. imagenet: start the convolutions from ImageNet.
    """

    def __init__(
        self, *, model: dict[str, Any], data: dict[str, Any], mask_values: dict[int, str], batch: int = 16,
        slabs: float = 0.15, maps: float = 1.0, imagenet: bool = True, prepare: dict[str, Any] | None = None,
        seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.slabs, self.maps = slabs, maps
        self.preparation = Prepare.from_dict(prepare or {})
        self.cases, self.held = both_sides(data, self.preparation, seed=seed)
        labels = sorted({label for case in self.cases for label, _ in case.boxes} | set(mask_values.values()))
        self.batches = question_batches(self.cases, batch, seed=seed)
        self.targets = [structure_target(c, labels, mask_values, stride=4) for c in self.cases]
        self.known = self._labelled(labels)
        words = Counter(w for c in self.cases for q in c.questions for w in self._split(q))
        self.words = {w: i + 1 for i, w in enumerate(sorted(words))}
        self.answers = {a: i for i, a in enumerate(sorted({_plain(a) for c in self.cases for a in c.answers}))}
        self.vision = Vision(encoder=model["encoder"], labels=labels, width=model["width"])
        if imagenet:
            self.vision.encoder.load_imagenet(
                load_file(assets.base_weights("efficientnet-lite2") / "model.safetensors")
            )
        self.reader = Reader(model["width"], len(self.words), len(self.answers))

    def _labelled(self, labels: list[str]) -> list[Tensor]:
        """A structure counts as absent only where its kind of image has it labelled at all: X-rays have no organs."""
        seen: dict[str, Tensor] = {}
        for case, (_, present) in zip(self.cases, self.targets, strict=True):
            seen[case.modality] = torch.maximum(seen.get(case.modality, torch.zeros(len(labels))), present)
        boxed = {c.modality for c in self.cases if c.boxes}
        flat = [c.modality in boxed and c.prepared.x.shape[1] == 1 for c in self.cases]  # boxes lie on pictures only
        return [
            seen[c.modality] if known else torch.zeros(len(labels)) for c, known in zip(self.cases, flat, strict=True)
        ]

    @staticmethod
    def _split(question: str) -> list[str]:
        return re.findall(r"[a-z0-9]+", question.lower())

    def collate(self, indices: list[int]) -> dict[str, Tensor]:
        generator = self.batches.generator(indices)
        cases = [self.cases[i] for i in indices]
        x, spacing = stack_scans(cases)
        target = torch.stack([self.targets[i][0] for i in indices])
        warped, grid = augment.warp_affine(x.flatten(1, 2), generator)
        small = F.interpolate(grid.permute(0, 3, 1, 2), target.shape[-2:], mode="bilinear").permute(0, 2, 3, 1)
        target = F.avg_pool2d(F.grid_sample(target, small, align_corners=False), 2)
        x = augment.contrast(warped.unflatten(1, (3, -1)), generator)
        if x.shape[2] == 1 and torch.rand((), generator=generator) < self.slabs:
            keep = max(1, len(x) // 2)
            x, spacing = augment.slab(x[:keep, :, 0], generator, depth=3)
            cases, indices, target = cases[:keep], indices[:keep], target[:keep]
        target = target.unsqueeze(2).expand(-1, -1, x.shape[2], -1, -1)
        known = torch.stack([self.known[i] for i in indices])
        return {
            "x": x,
            "spacing": spacing,
            "target": target.contiguous(),
            "known": known,
            **self._questions(cases),
        }

    def _questions(self, cases: list[Case]) -> dict[str, Tensor]:
        rows, image, answer = [], [], []
        for index, case in enumerate(cases):
            for question, reply in zip(case.questions, case.answers, strict=True):
                rows.append(torch.tensor([self.words[w] for w in self._split(question) if w in self.words] or [0]))
                image.append(index)
                answer.append(self.answers.get(_plain(reply), -1))
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return {"question": padded, "image": torch.tensor(image), "answer": torch.tensor(answer)}

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        seen = self.vision(batch["x"], batch["spacing"])
        maps = map_loss(seen.logits, batch["target"], batch["known"])
        present = (batch["target"].flatten(2).amax(-1) > 0.3).float()
        pooled = F.binary_cross_entropy_with_logits(soft_max_pool(seen.logits), present, batch["known"])
        chosen = self.reader(batch["question"], seen.tokens[batch["image"]])
        answer = F.cross_entropy(chosen, batch["answer"], label_smoothing=0.05)
        right = (chosen.argmax(-1) == batch["answer"]).float().mean()
        return {"loss": answer + self.maps * (maps + pooled), "answer": answer, "maps": maps, "right": right}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Share of held-out questions answered right by the reader, for each modality and over all ("score")."""
        right: Counter[str] = Counter()
        total: Counter[str] = Counter()
        for case in self.held:
            about = self._questions([case])
            seen = self.vision(case.prepared.x[None].float(), case.prepared.spacing[None])
            chosen = self.reader(about["question"], seen.tokens.expand(len(case.questions), -1, -1)).argmax(-1)
            right[case.modality] += int((chosen == about["answer"]).sum())
            total[case.modality] += len(case.questions)
        shares = {f"right {name}": right[name] / total[name] for name in sorted(total)}
        return {"score": right.total() / max(total.total(), 1), **shares}

    def parameter_groups(self, rate: float) -> list[dict[str, Any]]:
        """ImageNet layers learn at a third of the rate of those that start from nothing."""
        old = [p for n, p in self.vision.encoder.named_parameters() if n.startswith(("stem", "stages"))]
        ids = {id(p) for p in old}
        return [
            {"params": old, "lr": rate / 3},
            {"params": [p for p in self.parameters() if id(p) not in ids], "lr": rate},
        ]

    def save(self, folder: Path) -> None:
        """`vision.safetensors` (half precision) and `vision.json`: what a MedFM needs of this training."""
        self.vision.write(folder / "vision.safetensors")
        about = {"labels": self.vision.structures.labels, "prepare": self.preparation.to_dict()}
        (folder / "vision.json").write_text(json.dumps(about, indent=1))


def _plain(answer: str) -> str:
    return " ".join(answer.lower().split()).rstrip(".")
