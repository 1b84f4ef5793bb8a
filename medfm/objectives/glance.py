"""Teaches the second look: with the eye frozen, the words of a question find among its patches what answers it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medfm.data.questions import Case, both_sides, question_batches, stack_scans
from medfm.image import augment
from medfm.language.glance import Glance
from medfm.model import load_vision
from medfm.objectives.choosing import Choosing
from medfm.prepare import Prepare
from medfm.vision import Vision

__all__ = ["Glances"]


class Glances(nn.Module):
    """The glance's vectors choose among the known answers; the layer that chooses is thrown away afterwards.

    The frozen eye looks beforehand at `views` changed copies of every picture, the last of them a thin slab; a pass
    over the questions then costs seconds instead of minutes.

    Args:
        model: `language` (whose word vectors the questions are read in), `encoder`, and `vision` (a folder that
            `grounded` left) or `adapter` (a name).
        data: `train` and optional `validate` lists of JSONL files; without `validate`, `hold` (share of the images).
        batch: images per step. glance: vectors per question.
    """

    def __init__(
        self, *, model: dict[str, Any], data: dict[str, Any], batch: int = 24, views: int = 6, glance: int = 2,
        seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        about, tensors = load_vision(model["vision"] if model.get("vision") else model["adapter"])
        self.cases, self.held = both_sides(data, Prepare.from_dict(about["prepare"]), seed=seed)
        self.batches = question_batches(self.cases, batch, seed=seed)
        self.choosing = Choosing(
            self.cases, language=model["language"], prompt=model.get("prompt", {}), count=glance
        )  # fmt: skip
        self.about = {"labels": about["labels"], "prepare": about["prepare"], "glance": glance}
        self.vision = Vision(
            encoder=model["encoder"], labels=about["labels"], width=self.choosing.width, glance=glance
        ).eval()  # fmt: skip
        self.vision.load_state_dict(tensors, strict=False)  # an eye of `grounded` alone has no glance yet
        self.vision.requires_grad_(False)
        self.glance.requires_grad_(True)
        nn.init.constant_(self.glance.gain, self.choosing.loudness)
        self.views = [self._look_at(self.cases, view, last=view == views - 1 > 0) for view in range(views)]
        self.shown = self._look_at(self.held, 0, last=False)

    @property
    def glance(self) -> Glance:
        assert self.vision.glance is not None
        return self.vision.glance

    @torch.no_grad()
    def _look_at(self, cases: list[Case], view: int, *, last: bool) -> list[tuple[Tensor, Tensor]]:
        """Patches and summary of every case, half precision; view 0 is the picture as it is."""
        generator, seen = torch.Generator().manual_seed(view), []
        for case in cases:
            x, spacing = stack_scans([case])
            if view:
                warped, _ = augment.warp_affine(x.flatten(1, 2), generator)
                x = augment.contrast(warped.unflatten(1, (3, -1)), generator)
            if last and x.shape[2] == 1:
                x, spacing = augment.slab(x[:, :, 0], generator, depth=3)
            pyramid, logits = self.vision.look(x, spacing)
            patches, summary = self.vision.connector.gather(pyramid[-1], logits), self.vision.structures.summary(logits)
            seen.append((patches[0].half(), summary[0].half()))
        return seen

    def train(self, mode: bool = True) -> Glances:
        """The frozen eye keeps its stored statistics."""
        super().train(mode)
        self.vision.eval()
        self.glance.train(mode)
        return self

    def collate(self, indices: list[int]) -> dict[str, Tensor]:
        generator = self.batches.generator(indices)
        view = self.views[int(torch.randint(len(self.views), (), generator=generator))]
        return self._batch([view[i] for i in indices], [self.cases[i] for i in indices])

    def _batch(self, seen: list[tuple[Tensor, Tensor]], cases: list[Case]) -> dict[str, Tensor]:
        return {
            "patches": torch.stack([p for p, _ in seen]).float(),
            "summary": torch.stack([s for _, s in seen]).float(),
            **self.choosing.batch(cases),
        }

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        memory = self.glance.remember(batch["patches"], batch["summary"])
        loss, right = self.choosing(self.glance, memory, batch)
        return {"loss": loss, "right": right}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Share of held-out questions answered right, for each modality and over all ("score")."""

        def memory(number: int) -> Tensor:
            patches, summary = self.shown[number]
            return self.glance.remember(patches[None].float(), summary[None].float())

        return self.choosing.score(self.glance, self.held, memory)

    def parameter_groups(self, rate: float) -> list[dict[str, Any]]:
        return [{"params": [p for p in self.parameters() if p.requires_grad], "lr": rate}]

    def save(self, folder: Path) -> None:
        """`vision.safetensors` and `vision.json`: the eye with its second look."""
        self.vision.write(folder / "vision.safetensors")
        (folder / "vision.json").write_text(json.dumps(self.about, indent=1))
