"""Learns to outline the brain from label maps alone: every step paints a new scan of random contrast (SynthSeg)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medfm.data.batches import Batches
from medfm.data.brain import LESION, read_heads, value_names
from medfm.losses import SegmentLoss
from medfm.segmenter import Segmenter

__all__ = ["Painted"]


class Painted(nn.Module):
    """Trains a `Segmenter` that takes any MR contrast (Billot et al., SynthSeg, Medical Image Analysis 2023).

    Args:
        model: `encoder` and `head` nodes; `start`, a folder whose weights are taken over.
        data: `train` and `validate`, lists of label maps with FreeSurfer's numbers; the two must not share people.
        window: (D, H, W) voxels. spacing: their size in mm. shift: mm that a window may lie off the brain's middle, so
            that a tile of a larger scan looks like one. lesion: share of the images with a planted lesion.
        samples: images a pass. batch: images a step. looks: images of each held person after a pass.
        loss: arguments of `SegmentLoss`.
    """

    def __init__(
        self, *, model: dict[str, Any], data: dict[str, Any], window: list[int], spacing: float, shift: float = 28.0,
        lesion: float = 0.5, samples: int = 60, batch: int = 1, looks: int = 3, loss: dict[str, Any] | None = None,
        seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.window, self.spacing, self.shift, self.lesion = tuple(window), spacing, shift, lesion
        self.heads, self.held, self.looks = read_heads(data["train"]), read_heads(data["validate"]), looks
        names = {**value_names(), LESION: "lesion"}
        self.network = Segmenter(
            encoder=model["encoder"], head=model.get("head", {}), labels=list(names.values()), patch=window,
            prepare={"spacing": [spacing] * 3, "intensity": "range"},
            about={
                "data": "label maps of heads; every image was synthetic", "trained on": [h.name for h in self.heads],
                "held out": [h.name for h in self.held],
            },
        )  # fmt: skip
        if start := model.get("start"):
            from medfm.segmenter import load_segmenter

            self.network.load_state_dict(load_segmenter(start).state_dict())
        self.number = torch.zeros(256, dtype=torch.int64)
        for index, value in enumerate(names, 1):
            self.number[value] = index
        self.loss = SegmentLoss(**(loss or {}))
        self.batches = Batches([0] * samples, batch, seed=seed)

    def collate(self, indices: list[int]) -> dict[str, Tensor]:
        """x (B, 1, *window) in [0, 1], target (B, *window) class numbers, spacing (B, 3) mm."""
        generator = self.batches.generator(indices)
        return self._painted([self.heads[i % len(self.heads)] for i in indices], generator)

    def _painted(self, heads: list[Any], generator: torch.Generator) -> dict[str, Tensor]:
        pairs = [
            h.sample(self.window, spacing=self.spacing, generator=generator, shift=self.shift, lesion=self.lesion)
            for h in heads
        ]
        return {
            "x": torch.stack([image for image, _ in pairs])[:, None],
            "target": torch.stack([self.number[values.long()] for _, values in pairs]),
            "spacing": torch.full((len(pairs), 3), float(self.spacing)),
        }

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        logits = self.network(batch["x"], batch["spacing"])
        return {"loss": self.loss(logits[0], batch["target"]), "dice": _dice(logits[0].detach(), batch["target"])}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Mean Dice of the structures in view on a few new images of people held out, the same after every pass."""
        device = next(self.parameters()).device
        found = []
        for number in range(self.looks * len(self.held)):
            generator = torch.Generator().manual_seed(number)
            batch = self._painted([self.held[number % len(self.held)]], generator)
            logits = self.network(batch["x"].to(device), batch["spacing"].to(device))[0]
            found.append(_dice(logits, batch["target"].to(device)))
        return {"score": float(torch.stack(found).mean())}

    def parameter_groups(self, rate: float) -> list[dict[str, Any]]:
        return [{"params": [p for p in self.parameters() if p.requires_grad], "lr": rate}]

    def save(self, folder: Path) -> None:
        """`medfm.json` and `segment.safetensors`, see `Segmenter.save`."""
        self.network.save(folder)


def _dice(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over the classes in view of the overlap of the likeliest class: logits (B, 1 + K, ...), target (B, ...)."""
    found, count = logits.argmax(1), logits.shape[1]
    sizes = torch.bincount(target.flatten(), minlength=count)[1:].float()
    taken = torch.bincount(found.flatten(), minlength=count)[1:].float()
    both = torch.bincount(target[found == target], minlength=count)[1:].float()
    return (2 * both / (sizes + taken).clamp(min=1))[sizes > 0].mean()
