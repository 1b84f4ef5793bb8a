"""Boxes from boxes: anchors matched to what is drawn, focal loss or hard negatives, corners; empty scans teach too."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm.data.batches import Batches
from medfm.data.boxes import BoxCase, both_boxes
from medfm.data.patients import told_of_colour, told_of_split
from medfm.detector import Detector
from medfm.grid import Grid, GridPrepare
from medfm.heads.detect import Dense
from medfm.image.boxes import sample_boxed
from medfm.image.patches import random_map, vary_intensity
from medfm.metrics import COCO_OVERLAPS, average_precision, match_boxes
from medfm.nn.anchors import decode_boxes, encode_boxes
from medfm.objectives.groups import encoder_slower

__all__ = ["DenseLoss", "Detection"]


class Detection(nn.Module):
    """Trains a `Detector`.

    Args:
        model: `encoder` and `head` nodes, perhaps `second`, see `Detector`.
        data: see `medfm.data.boxes.both_boxes`.
        prepare: fields of `GridPrepare`. patch: (D, H, W) voxels. batch: patches a step. tile: voxels read at once
            later (default: patch).
        repeats: patches of each scan in a pass. around: share of patches that hold a box of the scan, for volumes much
            larger than a patch; others lie anywhere.
        loss: arguments of `DenseLoss`. hit: overlap (IoU) from which a second look should name a proposal.
        overlap: see `Detector`.
        degrees, zoom, flips: of the random maps (`medfm.image.patches.random_map`). vary: strength of the changes of
            intensity, 0 for none.
        checked: held-out scans looked at after a pass.
    """

    def __init__(
        self, *, model: dict[str, Any], data: dict[str, Any], prepare: dict[str, Any], patch: list[int],
        tile: list[int] | None = None, batch: int = 8, repeats: int = 1, around: float = 0.0,
        loss: dict[str, Any] | None = None, hit: float = 0.5, overlap: float = 0.5, degrees: float = 3.0,
        zoom: float = 0.2, flips: str = "", vary: float = 1.0, checked: int = 40, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        preparation = GridPrepare.from_dict(prepare)
        self.cases, self.held, names = both_boxes(data, preparation, seed=seed)
        self.network = Detector(
            encoder=model["encoder"], head=model["head"], labels=names, prepare=prepare, patch=tile or patch,
            overlap=overlap, second=model.get("second"),
            about=told_of_split(data, self.cases, self.held) | told_of_colour(self.cases, preparation),
        )  # fmt: skip
        self.patch = (patch[0], patch[1], patch[2])
        self.around, self.hit, self.checked = around, hit, checked
        self.degrees, self.zoom, self.flips, self.vary = degrees, zoom, flips, vary
        self.loss = DenseLoss(**(loss or {}))
        self.batches = Batches([0] * len(self.cases) * repeats, batch, seed=seed)

    def collate(self, indices: list[int]) -> dict[str, Tensor]:
        """x (B, C, *patch); boxes (B, M, 6) in voxels of it and their labels (B, M), -1 where there is none; spacing
        (B, 3) mm; place (B, 6) of the patch in its scan."""
        generator = self.batches.generator(indices)
        rows = [self._patch(self.cases[i % len(self.cases)], generator) for i in indices]
        most = max(1, *(len(labels) for _, _, labels, _, _ in rows))
        boxes, labels = torch.zeros(len(rows), most, 6), torch.full((len(rows), most), -1)
        for number, (_, own, kinds, _, _) in enumerate(rows):
            boxes[number, : len(own)], labels[number, : len(own)] = own, kinds
        x = torch.stack([row[0] for row in rows])
        if self.vary:
            x = vary_intensity(x, generator, strength=self.vary)
        if self.network.preparation.bounded:
            x = x.clamp(0, 1)
        spacing, place = (torch.stack([row[k] for row in rows]) for k in (3, 4))
        return {"x": x, "boxes": boxes, "labels": labels, "spacing": spacing, "place": place}

    def _patch(self, case: BoxCase, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        matrix = random_map(self.patch, case.spacing, generator, degrees=self.degrees, zoom=self.zoom, flips=self.flips)
        shape = torch.tensor(case.x.shape[1:], dtype=torch.float32)
        patch = torch.tensor(self.patch, dtype=torch.float32)
        draw = torch.rand(3, generator=generator)
        centre = (shape - 1) / 2 + (draw - 0.5) * (shape - patch).abs()
        if len(case.boxes) and torch.rand((), generator=generator) < self.around:
            box = case.boxes[torch.randint(len(case.boxes), (), generator=generator)]
            reach = patch * 0.8
            if self.patch[0] == 1:
                reach[0] = box[3] - box[0] - 1  # any slice that the box lies in
            centre = (box[:3] + box[3:] - 1) / 2 + (draw - 0.5) * reach
        if self.patch[0] == 1:
            centre[0] = centre[0].round()  # a slice as it is, not a mean of two
        x, boxes, kept = sample_boxed(
            case.x.float(), case.boxes, centre=centre.tolist(), patch=self.patch, matrix=matrix
        )
        edges = torch.cat([centre - patch / 2, centre + patch / 2]) / shape.repeat(2) * 2 - 1
        return x, boxes, case.labels[kept], case.spacing, edges

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        dense = self.network(batch["x"], batch["spacing"], batch["place"])
        labels = batch["labels"] if self.network.second is None else batch["labels"].clamp(max=0)
        classes, corners = self.loss(dense, batch["boxes"], labels, per_cell=self.network.head.per_cell)
        parts = {"loss": classes + corners, "classes": classes, "corners": corners}
        if self.network.second is not None:
            parts["second"] = self._second(dense, batch)
            parts["loss"] = parts["loss"] + parts["second"]
        if dense.where is not None:
            share = ((batch["place"][:, 0] + batch["place"][:, 3]) / 4 + 0.5).clamp(0, 1)
            parts["where"] = self.network.encoder.place_loss(dense.where, share)
            parts["loss"] = parts["loss"] + 0.1 * parts["where"]  # MVP-Net's weight
        return parts

    def _second(self, dense: Dense, batch: dict[str, Tensor]) -> Tensor:
        """Proposals and what is drawn itself: named right, and corrected where they hit."""
        from monai.data.box_utils import box_iou

        second = self.network.second
        assert second is not None
        proposals, targets, wanted = [], [], []
        for number, (boxes, labels) in enumerate(zip(batch["boxes"], batch["labels"], strict=True)):
            drawn, kinds = boxes[labels >= 0], labels[labels >= 0]
            found = self.network.propose(dense, number, self.patch, most=second.proposals).boxes
            own = torch.cat([found, drawn])
            target, goal = torch.zeros(len(own), dtype=torch.long, device=own.device), own.clone()
            if len(drawn):
                overlap, best = torch.as_tensor(box_iou(own, drawn)).max(1)
                hit = overlap >= self.hit
                target[hit], goal[hit] = kinds[best[hit]] + 1, drawn[best[hit]]
            proposals.append(own)
            targets.append(target)
            wanted.append(goal)
        logits, deltas = second(dense.features, dense.strides, proposals)
        target, boxes = torch.cat(targets), torch.cat(proposals)
        loss = F.cross_entropy(logits, target)
        hit = target > 0
        if hit.any():
            loss = loss + F.smooth_l1_loss(deltas[hit], encode_boxes(torch.cat(wanted)[hit], boxes[hit]), beta=1 / 9)
        return loss

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Mean AP at IoU 0.5 of the classes over held-out scans ("score"), and of each class."""
        found, drawn = [], []
        for case in self.held[: self.checked]:
            found.append(self.network.find(Grid.of(case.x, case.spacing, self.network.preparation)))
            drawn.append((case.boxes, case.labels))
        overlaps = COCO_OVERLAPS
        figures = average_precision(match_boxes(found, drawn, overlaps=overlaps), self.network.labels)
        each = {name: value for name, value in figures["classes"].items() if not math.isnan(value)}
        return {"score": 0.0 if math.isnan(figures["ap50"]) else figures["ap50"], **each}

    def parameter_groups(self, rate: float) -> list[dict[str, Any]]:
        """A trained encoder learns at a third of the rate of what starts from nothing."""
        return encoder_slower(self, self.network.encoder, rate)

    def save(self, folder: Path) -> None:
        """A folder for `medfm.detector.load_detector`."""
        self.network.save(folder)


class DenseLoss(nn.Module):
    """What the anchors should say, and how far off they are.

    Args:
        match: "atss" takes for each box the anchors nearest to it whose overlap is above the mean plus the deviation of
            such anchors (Zhang et al., CVPR 2020; MONAI's matcher). "iou" takes anchors that overlap by `high` or more,
            and each box's best; those between `low` and `high` are not asked (Faster R-CNN, RetinaNet; torchvision's).
        nearest: candidates a level of "atss".
        classes: "focal" asks all anchors and weighs by difficulty (Lin et al. 2017), "hard" the positive ones and
            `negatives` of the negatives that the network finds likeliest for each patch (DeepLung; MONAI's sampler).
        corners: "giou" of the decoded boxes (Rezatofighi et al. 2019) or "l1", smooth L1 of the deltas. weight: of it.
    """

    def __init__(
        self, *, match: Literal["atss", "iou"] = "atss", nearest: int = 9, high: float = 0.5, low: float = 0.4,
        classes: Literal["focal", "hard"] = "focal", alpha: float = 0.25, gamma: float = 2.0, negatives: int = 16,
        corners: Literal["giou", "l1"] = "giou", weight: float = 1.0,
    ) -> None:  # fmt: skip
        from monai.apps.detection.utils.ATSS_matcher import ATSSMatcher
        from monai.apps.detection.utils.hard_negative_sampler import HardNegativeSampler
        from torchvision.models.detection._utils import Matcher

        super().__init__()
        self.atss = ATSSMatcher(nearest, center_in_gt=False) if match == "atss" else None
        self.matcher = Matcher(high, low, allow_low_quality_matches=True)
        self.sampler = HardNegativeSampler(2 * negatives, 0.5, min_neg=negatives, pool_size=2)
        self.kind, self.alpha, self.gamma = classes, alpha, gamma
        self.corners, self.weight = corners, weight

    def forward(self, dense: Dense, boxes: Tensor, labels: Tensor, *, per_cell: int) -> tuple[Tensor, Tensor]:
        """boxes (B, M, 6), labels (B, M), -1 for none -> the loss of the classes and of the corners, two scalars."""
        anchors = torch.cat(dense.anchors)
        matches = [
            self._match(own[kinds >= 0], dense.anchors, anchors, per_cell)
            for own, kinds in zip(boxes, labels, strict=True)
        ]
        matched = torch.stack(matches)  # (B, N): number of the box, -1 background, -2 not asked
        positive, asked = matched >= 0, matched > -2
        target = torch.zeros_like(dense.logits)
        index = positive.nonzero()
        own = matched[positive]
        target[index[:, 0], index[:, 1], labels[index[:, 0], own]] = 1
        count = positive.sum().clamp(min=1)
        classes = self._classes(dense.logits, target, positive, asked, count)
        if not len(index):
            return classes, dense.deltas.sum() * 0
        wanted, there = boxes[index[:, 0], own], anchors[index[:, 1]]
        return classes, self.weight * self._corners(dense.deltas[positive], wanted, there)

    def _match(self, boxes: Tensor, levels: list[Tensor], anchors: Tensor, per_cell: int) -> Tensor:
        from monai.data.box_utils import box_iou

        if not len(boxes):
            return torch.full((len(anchors),), -1, device=anchors.device)
        if self.atss is not None:
            cells = [len(level) // per_cell for level in levels]
            return self.atss(boxes, anchors, cells, per_cell)[1]
        matched: Tensor = self.matcher(box_iou(boxes, anchors))
        return matched

    def _classes(self, logits: Tensor, target: Tensor, positive: Tensor, asked: Tensor, count: Tensor) -> Tensor:
        if self.kind == "focal":
            from torchvision.ops import sigmoid_focal_loss

            each = sigmoid_focal_loss(logits, target, alpha=self.alpha, gamma=self.gamma)
            return (each * asked[..., None]).sum() / count
        marks = [torch.where(p, 1, torch.where(a, 0, -1)) for p, a in zip(positive, asked, strict=True)]
        likeliest = logits.detach().sigmoid().amax(2).flatten()
        chosen = [torch.stack(list(masks)).any(0) for masks in zip(*self.sampler(marks, likeliest), strict=True)]
        mask = torch.stack(chosen).bool()
        return F.binary_cross_entropy_with_logits(logits[mask], target[mask], reduction="sum") / mask.sum()

    def _corners(self, deltas: Tensor, wanted: Tensor, anchors: Tensor) -> Tensor:
        if self.corners == "l1":
            return F.smooth_l1_loss(deltas, encode_boxes(wanted, anchors), beta=1 / 9)
        from monai.losses.giou_loss import BoxGIoULoss

        loss: Tensor = BoxGIoULoss()(decode_boxes(deltas, anchors), wanted)
        return loss
