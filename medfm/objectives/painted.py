"""Learns to outline the brain from label maps alone: every step paints a new scan of random contrast (SynthSeg)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm.data.batches import Batches
from medfm.data.brain import read_heads, value_names
from medfm.losses import SegmentLoss, deep_loss
from medfm.metrics import label_dice
from medfm.objectives.groups import at_one_rate
from medfm.segmenter import Segmenter, grow, load_segmenter, places

__all__ = ["Painted"]


class Painted(nn.Module):
    """Trains a `Segmenter` that takes any MR contrast (Billot et al., SynthSeg, Medical Image Analysis 2023).

    Args:
        model: `encoder` and `head` nodes; `grow`, the folder of a model without the finest stage, trained at twice the
            spacing (`medfm.segmenter.grow`); `places`, see `Segmenter`.
        data: `train` and `validate`, lists of label maps with FreeSurfer's numbers; the two must not share people.
        window: (D, H, W) voxels. spacing: their size in mm. shift: mm, for all axes or each, that a window may lie off
            the brain's middle, as brains do in scans. common: see `medfm.data.brain.Head.sample`. tile: voxels read at
            once later (default: window). fine: images are painted with voxels that much smaller and averaged, so that
            a voxel holds parts of several tissues, as in a scan.
        samples: images a pass. batch: images a step. looks: images of each held person after a pass.
        loss: arguments of `SegmentLoss`. rare: how much more a class counts in its cross-entropy the rarer it is, an
            exponent of its share.
    """

    def __init__(
        self, *, model: dict[str, Any], data: dict[str, Any], window: list[int], spacing: float,
        shift: float | list[float] = 28.0, common: float = 0.0, fine: int = 1, rare: float = 0.0,
        tile: list[int] | None = None,
        samples: int = 60, batch: int = 1, looks: int = 3, loss: dict[str, Any] | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.window, self.spacing, self.fine = tuple(window), spacing, fine
        self.draw: dict[str, Any] = {"spacing": spacing / fine, "shift": shift, "common": common}
        self.heads, self.held, self.looks = read_heads(data["train"]), read_heads(data["validate"]), looks
        names = value_names()
        labels = list(dict.fromkeys(names.values()))
        self.network = Segmenter(
            encoder=model["encoder"], head=model.get("head", {}), labels=labels, patch=tile or window,
            places=model.get("places", False),
            prepare={"spacing": [spacing] * 3, "intensity": "range"},
            about={
                "data": "label maps of heads; every image was synthetic", "trained on": [h.name for h in self.heads],
                "held out": [h.name for h in self.held],
            },
        )  # fmt: skip
        if smaller := model.get("grow"):
            grow(self.network, load_segmenter(smaller))
        self.number = torch.zeros(256, dtype=torch.int64)
        for value, name in names.items():
            self.number[value] = labels.index(name) + 1
        weights = self._weights(rare) if rare else None
        self.loss = SegmentLoss(**(loss or {}), weights=weights)
        self.batches = Batches([0] * samples, batch, seed=seed)

    def _weights(self, rare: float) -> list[float]:
        """Of each class, the background first; no class counts over fifty times as much as another."""
        count = torch.zeros(len(self.network.labels) + 1)
        for head in self.heads:
            sizes = torch.bincount(head.labels.flatten().long(), minlength=len(head.values)).float()
            count.index_add_(0, self.number[head.targets().long()], sizes)
        weights = (count / count.max()).clamp(min=1e-12) ** -rare
        return (weights / weights.min()).clamp(max=50.0).tolist()

    def collate(self, indices: list[int]) -> dict[str, Tensor]:
        """x (B, 1, *window) in [0, 1], target (B, *window) class numbers, spacing (B, 3) mm."""
        generator = self.batches.generator(indices)
        return self._painted([self.heads[i % len(self.heads)] for i in indices], generator)

    def _painted(self, heads: list[Any], generator: torch.Generator) -> dict[str, Tensor]:
        shape = [n * self.fine for n in self.window]
        fine = [h.sample(shape, generator=generator, **self.draw) for h in heads]
        pairs = [_averaged(image, mask, self.fine, generator) for image, mask in fine]
        x = torch.stack([image for image, _ in pairs])[:, None]
        if self.network.places:
            where = places(self.window, (self.spacing,) * 3)
            x = torch.cat([x, where.expand(len(x), -1, -1, -1, -1)], 1)
        return {
            "x": x,
            "target": torch.stack([self.number[values.long()] for _, values in pairs]),
            "spacing": torch.full((len(pairs), 3), float(self.spacing)),
        }

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        logits = self.network(batch["x"], batch["spacing"])
        loss = deep_loss(self.loss, logits, batch["target"])
        return {"loss": loss, "dice": _dice(logits[0].detach(), batch["target"])}

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
        return at_one_rate(self, rate)

    def save(self, folder: Path) -> None:
        """`medfm.json` and `segment.safetensors`, see `Segmenter.save`."""
        self.network.save(folder)


def _averaged(image: Tensor, mask: Tensor, times: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Both with voxels `times` as large: the mean of an image, a random one of the voxels of a mask."""
    a, b, c = torch.randint(times, (3,), generator=generator).tolist() if times > 1 else (0, 0, 0)
    return F.avg_pool3d(image[None], times)[0], mask[a::times, b::times, c::times]


def _dice(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over the classes in view of the Dice of the likeliest class: logits (B, 1 + K, ...), target (B, ...)."""
    present = target.unique()
    return label_dice(logits.argmax(1), target, logits.shape[1] - 1)[present[present > 0] - 1].mean()
