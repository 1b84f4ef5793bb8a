"""Voxel by voxel from label maps: patches, Dice and its relatives, any encoder under the U-Net decoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medfm.data.batches import Batches
from medfm.data.patients import told_of_colour, told_of_split
from medfm.data.volumes import VolumeCase, both_volumes, unlabelled_volumes
from medfm.grid import Grid, GridPrepare
from medfm.image.patches import random_bend, random_map, sample_patch, shaded, vary_intensity
from medfm.losses import SegmentLoss, deep_loss, drawn_together
from medfm.metrics import label_dice
from medfm.objectives.agreement import Agreement
from medfm.objectives.groups import at_one_rate
from medfm.segmenter import Segmenter

__all__ = ["Supervised"]


class Supervised(nn.Module):
    """Trains a `Segmenter`.

    Args:
        model: `encoder` and `head` nodes.
        data: see `medfm.data.volumes.both_volumes`.
        prepare: fields of `GridPrepare`. patch: (D, H, W) voxels. batch: patches a step. tile: voxels read at once
            later, when no gradients take memory (default: patch).
        repeats: patches of each scan in a pass.
        foreground: share of patches centred on a voxel of a random class of the scan; others lie anywhere.
        loss: arguments of `SegmentLoss`. With its `partial`, scans whose label map draws none of the classes are left
            out, what was drawn together is counted over the others, and a class counts in the scores of those scans
            only that draw it.
        degrees, zoom, flips: of the random maps (`medfm.image.patches.random_map`). bend: mm of `random_bend`, 0 for
            none, at points `apart` mm apart. vary: strength of the changes of intensity, 0 for none.
        shades: how far each class of a patch gets brighter or darker of its own, a deviation in units of the first
            channel, 0 for none: other scanners and phases of contrast, where the scans are few (after SynthSeg,
            Billot et al. 2023, on scans instead of paint).
        mirrored, largest, meet: how the model reads and tidies what it finds, see `Segmenter`.
        checked: held-out scans looked at after a pass.
        agree: arguments of `Agreement`, to learn from scans without labels too (see `unlabelled_volumes`).
    """

    def __init__(
        self, *, model: dict[str, Any], data: dict[str, Any], prepare: dict[str, Any], patch: list[int],
        tile: list[int] | None = None, batch: int = 2, repeats: int = 1, foreground: float = 0.33,
        loss: dict[str, Any] | None = None, degrees: float | list[float] = 15.0, zoom: float = 0.15, flips: str = "",
        bend: float | list[float] = 0.0, apart: float = 12.0, vary: float = 1.0, shades: float = 0.0,
        mirrored: bool = False, largest: Sequence[str] = (), meet: Sequence[str] = (), checked: int = 12,
        agree: dict[str, Any] | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        preparation = GridPrepare.from_dict(prepare)
        self.cases, self.held, names = both_volumes(data, preparation, seed=seed)
        together = None
        if (loss or {}).get("partial"):
            self.cases, self.held = ([c for c in cases if c.labels.any()] for cases in (self.cases, self.held))
            together = drawn_together((c.labels for c in self.cases), len(names) + 1)
        self.loss = SegmentLoss(**(loss or {}), together=together)
        self.network = Segmenter(
            encoder=model["encoder"], head=model.get("head", {}), labels=names, prepare=prepare, patch=tile or patch,
            flips=flips, mirrored=mirrored, largest=largest, meet=meet,
            about=told_of_split(data, self.cases, self.held)
            | told_of_colour(self.cases, preparation),
        )  # fmt: skip
        self.agreement = Agreement(self.network, **agree) if agree else None
        self.others = unlabelled_volumes(data, self.network.preparation, seed=seed) if agree else []
        if agree:
            self.network.about["trained on without labels"] = len(self.others)
        self.patch = (patch[0], patch[1], patch[2])
        self.foreground, self.checked = foreground, checked
        self.degrees, self.zoom, self.flips, self.vary = degrees, zoom, flips, vary
        self.bend, self.apart, self.shades = bend, apart, shades
        self.batches = Batches([0] * len(self.cases) * repeats, batch, seed=seed)

    def collate(self, indices: list[int]) -> dict[str, Tensor]:
        """x (B, C, *patch), target (B, *patch) class numbers, spacing (B, 3) mm.

        With `agree` x and spacing have more rows, of patches without labels, and `calm` (U, C, *patch) is those as the
        one sees them with whom the network should agree.
        """
        generator = self.batches.generator(indices)
        x, target, spacing = self._patches([self.cases[i % len(self.cases)] for i in indices], generator)
        if self.shades:
            offsets = torch.randn(len(x), len(self.network.labels) + 1, generator=generator) * self.shades
            x = shaded(x, target, offsets, self.network.preparation.scales)
        x = self._recoloured(x, generator)
        if self.agreement is None:
            return {"x": x, "target": target, "spacing": spacing}
        chosen = torch.randint(len(self.others), (self.agreement.patches,), generator=generator).tolist()
        plain, _, more = self._patches([self.others[i] for i in chosen], generator)
        return {
            "x": torch.cat([x, self._recoloured(plain, generator)]), "target": target,
            "spacing": torch.cat([spacing, more]), "calm": self.agreement.shown(plain, generator),
        }  # fmt: skip

    def _patches(self, cases: Sequence[VolumeCase], generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """A patch of each case, warped: x (B, C, *patch), target (B, *patch), spacing (B, 3) mm."""
        rows = []
        for case in cases:
            matrix = random_map(
                self.patch, case.spacing, generator, degrees=self.degrees, zoom=self.zoom, flips=self.flips
            )
            bend = (
                random_bend(self.patch, case.spacing, generator, mm=self.bend, apart=self.apart) if self.bend else None
            )
            x, target = sample_patch(
                case.x.float(), case.labels, centre=self._centre(case, generator), patch=self.patch, matrix=matrix,
                classes=len(self.network.labels) + 1, bend=bend,
            )  # fmt: skip
            rows.append((x, target, case.spacing))
        x, target, spacing = (torch.stack(part) for part in zip(*rows, strict=True))
        return x, target, spacing

    def _recoloured(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """x with other intensities, within the range that the network reads."""
        if self.vary:
            x = vary_intensity(x, generator, strength=self.vary)
        return x.clamp(0, 1) if self.network.preparation.bounded else x

    def _centre(self, case: VolumeCase, generator: torch.Generator) -> list[float]:
        """The middle of a patch, in voxels: on a voxel of a class, or anywhere that keeps the patch inside.

        Where the patch is larger than the scan, the scan lies anywhere in the patch.
        """
        draw = torch.rand(3, generator=generator)
        if torch.rand((), generator=generator) < self.foreground:
            present = case.labels.unique()
            present = present[present > 0]
            if len(present):
                value = present[torch.randint(len(present), (), generator=generator)]
                places = (case.labels == value).nonzero()
                place = places[torch.randint(len(places), (), generator=generator)]
                return [float(v) for v in place]
        return [
            (n - 1) / 2 + (float(u) - 0.5) * abs(n - p)
            for u, n, p in zip(draw, case.labels.shape, self.patch, strict=True)
        ]

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        count = len(batch["target"])
        if self.agreement is not None:
            self.agreement.follow(self.network)
        logits = self.network(batch["x"], batch["spacing"])
        told = deep_loss(self.loss, [level[:count] for level in logits], batch["target"])
        right = self._dice(logits[0][:count].max(1).indices, batch["target"]).nanmean()
        if self.agreement is None:
            return {"loss": told, "dice": right}
        share = self.agreement.share()
        apart = self.agreement(
            self.network, [level[count:] for level in logits], batch["calm"], batch["spacing"][count:]
        )
        return {"loss": told + share * apart, "labelled": told, "disagreement": apart, "dice": right}

    def _dice(self, found: Tensor, truth: Tensor) -> Tensor:
        return label_dice(found, truth, len(self.network.labels), partial=self.loss.partial)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Mean Dice of the classes over held-out scans, on the model's grid ("score"), and of each class."""
        rows = []
        for case in self.held[: self.checked]:
            found = self.network.label(Grid.of(case.x, case.spacing, self.network.preparation))
            rows.append(self._dice(torch.from_numpy(found), case.labels))
        each = torch.stack(rows).nanmean(0)
        return {"score": float(each.nanmean()), **dict(zip(self.network.labels, each.tolist(), strict=True))}

    def parameter_groups(self, rate: float) -> list[dict[str, Any]]:
        """All that learns, at one rate."""
        return at_one_rate(self, rate)

    def save(self, folder: Path) -> None:
        """A folder for `medfm.segmenter.load_segmenter`."""
        self.network.save(folder)
