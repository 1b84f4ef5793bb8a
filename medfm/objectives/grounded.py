"""Trains the eye without a language model: find the structures, and answer by choosing among known answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from medfm import assets
from medfm.data.questions import both_sides, question_batches, stack_scans, structure_target
from medfm.data.rewording import Rewording
from medfm.image import augment
from medfm.language.glance import Panel
from medfm.losses import map_loss, soft_max_pool
from medfm.model import load_vision
from medfm.objectives.choosing import Choosing, known_answers
from medfm.prepare import Prepare
from medfm.vision import Vision, load_fitting

__all__ = ["Grounded"]


class Grounded(nn.Module):
    """Structure maps from boxes and masks, plus answers, on pictures and thin slabs.

    Args:
        model: `encoder` node, `language` (whose word vectors the questions are read in), and `vision` or `adapter`, a
            trained eye to go on from.
        data: `train` and optional `validate` lists of JSONL files; without `validate`, `hold` (share of the images).
        mask_values: grey value of mask.png -> structure.
        batch: images per step. slabs: share of the steps that see a thin volume instead of pictures.
        maps: weight of the structure maps beside the answers. imagenet: start the convolutions from ImageNet.
        paraphrases: pattern -> other ways to ask, used for a share `reword` of the questions.
    """

    def __init__(
        self, *, model: dict[str, Any], data: dict[str, Any], mask_values: dict[int, str], batch: int = 16,
        slabs: float = 0.15, maps: float = 1.0, imagenet: bool = True, prepare: dict[str, Any] | None = None,
        paraphrases: dict[str, list[str]] | None = None, reword: float = 0.0, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.slabs, self.maps = slabs, maps
        self.preparation = Prepare.from_dict(prepare or {})
        self.cases, self.held = both_sides(data, self.preparation, seed=seed)
        labels = sorted({label for case in self.cases for label, _ in case.boxes} | set(mask_values.values()))
        self.rewording = Rewording(paraphrases or {}, share=reword)
        self.batches = question_batches(self.cases, batch, seed=seed)
        self.targets = [structure_target(c, labels, mask_values, stride=4) for c in self.cases]
        self.known = self._labelled(labels)
        answers = known_answers(self.cases)
        self.choosing = Choosing(answers, language=model["language"], prompt=model.get("prompt", {}))
        self.vision = Vision(encoder=model["encoder"], labels=labels, width=self.choosing.width)
        # answers teach what the connector will read, attention and maps; the second look that ships learns later
        self.glance = Panel(self.vision.connector.features, self.choosing.width, answers=len(answers))
        if start := model.get("vision") or model.get("adapter"):
            load_fitting(self.vision, load_vision(start)[1])
        elif imagenet:
            weights = load_file(assets.base_weights("efficientnet-lite2") / "model.safetensors")
            self.vision.encoder.load_imagenet(weights)

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
        asked = [replace(c, questions=[self.rewording(q, generator) for q in c.questions]) for c in cases]
        return {
            "x": x,
            "spacing": spacing,
            "target": target.contiguous(),
            "known": known,
            **self.choosing.batch(asked),
        }

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        _, logits, glimpse = self.vision.look(batch["x"], batch["spacing"])
        maps = map_loss(logits, batch["target"], batch["known"])
        present = (batch["target"].flatten(2).amax(-1) > 0.3).float()
        pooled = F.binary_cross_entropy_with_logits(soft_max_pool(logits), present, batch["known"])
        answer, right = self.choosing.loss(self.glance, self.glance.remember(glimpse.patches), batch)
        return {"loss": answer + self.maps * (maps + pooled), "answer": answer, "maps": maps, "right": right}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Share of held-out questions answered right, for each modality and over all ("score")."""

        device = next(self.parameters()).device

        def memory(number: int) -> Tensor:
            prepared = self.held[number].prepared
            x, spacing = prepared.x[None].float().to(device), prepared.spacing[None].to(device)
            return self.glance.remember(self.vision.look(x, spacing)[2].patches)

        return self.choosing.score(self.glance, self.held, memory)

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
        about = {
            "labels": self.vision.structures.labels, "prepare": self.preparation.to_dict(),
            "answers": [], "looks": 1,
        }  # fmt: skip
        (folder / "vision.json").write_text(json.dumps(about, indent=1, ensure_ascii=False))
