"""Detector: encoder + dense head, perhaps a second look, + how a scan is read for them, as one folder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from medfm.grid import Grid, GridPrepare
from medfm.heads.detect import Dense, DetectHead
from medfm.heads.second import SecondHead
from medfm.nn.anchors import clip_boxes, decode_boxes, linked, suppress
from medfm.nn.stages import rounded_up
from medfm.nn.tiles import Part, starts
from medfm.progress import counting
from medfm.stored import Stored, load_stored

__all__ = ["Detector", "Found", "load_detector"]


class Found(NamedTuple):
    """boxes (N, 6), edges in voxels of the grid; scores (N,) from 0 to 1, best first; labels (N,), numbers from 0."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class Detector(Stored):
    """Boxes around what `labels` name in a scan.

    `medfm.json` of its folder holds kind: "detect" and these arguments; `detect.safetensors` the weights in half
    precision, without those that a shared encoder brings along.

    Args:
        encoder: a node of configs. head: arguments of `DetectHead`. labels: names of the classes.
        prepare: fields of `GridPrepare`. patch: (D, H, W) voxels read at once; larger scans in overlapping tiles.
        overlap: two boxes of a label that overlap by more (IoU) count as one. most: boxes kept of a scan.
        threshold: the score from which a box is shown, where nobody asks for another.
        second: arguments of `SecondHead`, which names what the dense head then only proposes; none without it.
        about: what the model is and was trained on, for people; kept as it is.
    """

    kind, file = "detect", "detect.safetensors"

    def __init__(
        self, *, encoder: dict[str, Any], head: dict[str, Any], labels: list[str], prepare: dict[str, Any],
        patch: list[int], overlap: float = 0.5, most: int = 100, threshold: float = 0.3,
        second: dict[str, Any] | None = None, about: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.settings: dict[str, Any] = {
            "encoder": encoder, "head": head, "labels": labels, "prepare": prepare, "patch": patch, "overlap": overlap,
            "most": most, "threshold": threshold, "second": second, "about": about or {},
        }  # fmt: skip
        self.labels, self.patch = list(labels), (patch[0], patch[1], patch[2])
        self.overlap, self.most = overlap, most
        self.preparation = GridPrepare.from_dict(prepare)
        self.encoder = self.build_encoder(encoder)
        self.head = DetectHead(self.encoder.channels, self.encoder.strides, 1 if second else len(labels), **head)
        self.second = SecondHead(self.head.width, len(labels), ndim=self.head.ndim, **second) if second else None

    @property
    def threshold(self) -> float:
        """The score from which a box is shown, where nobody asks for another."""
        return float(self.settings["threshold"])

    @property
    def caution(self) -> str:
        """What has to be said beside each of its boxes, as that it learned from synthetic scans; mostly nothing."""
        return str(self.about.get("caution", ""))

    @property
    def place(self) -> str:
        """Where alone its things are looked for: "lungs", or anywhere."""
        return str(self.about.get("place", ""))

    def forward(self, x: Tensor, spacing: Tensor, place: Tensor | None = None) -> Dense:
        """x: (B, C, D, H, W); spacing: (B, 3) mm; place: see `DetectHead`."""
        if not hasattr(self.encoder, "look"):
            dense: Dense = self.head(self.encoder(x, spacing), place)
            return dense
        pyramid, where = self.encoder.look(x, spacing)
        seen: Dense = self.head(pyramid, place)
        return seen._replace(where=where)

    def propose(self, dense: Dense, number: int, size: Sequence[int], *, most: int) -> Found:
        """The likeliest boxes of input `number`, of (D, H, W) voxels, without doubles; gradients do not pass."""
        logits, deltas = dense.logits[number].detach(), dense.deltas[number].detach()
        classes = logits.shape[1]
        scores, flat = logits.sigmoid().flatten().topk(min(4 * most, logits.numel()))
        anchors = torch.cat(dense.anchors)[flat // classes]
        boxes = clip_boxes(decode_boxes(deltas[flat // classes], anchors), size)
        kept = suppress(boxes, scores, flat % classes, overlap=max(self.overlap, 0.3), most=most)
        return Found(boxes[kept], scores[kept], (flat % classes)[kept])

    @torch.inference_mode()
    def find(self, grid: Grid, *, least: float = 0.02, part: Part | None = None) -> Found:
        """The boxes of `grid` whose score is `least` or more; of a head that looks at slices, joined through them.

        part: what is read of the grid (default: the whole of it). Tiles overlap by half. A tile answers for what is
        centred in its own part, where no other tile sees more of the surroundings, so that a thing on a border counts
        once and is judged whole.
        """
        spacing = torch.tensor(grid.spacing, dtype=torch.float32)[None].to(self.device)
        shape = torch.tensor(grid.shape, dtype=torch.float32)
        parts: list[Found] = []
        read = part or tuple(slice(0, n) for n in grid.shape)
        begun = [
            [r.start + first for first in starts(r.stop - r.start, patch, 0.5)]
            for r, patch in zip(read, self.patch, strict=True)
        ]
        tiles = list(product(*(range(len(firsts)) for firsts in begun)))
        step = counting(len(tiles))
        for index in tiles:
            first = [begun[a][i] for a, i in enumerate(index)]
            size = [min(p, r.stop - r.start) for p, r in zip(self.patch, read, strict=True)]
            d, h, w = (slice(f, f + s) for f, s in zip(first, size, strict=True))
            shift = torch.tensor([*first, *first], dtype=torch.float32)
            x = rounded_up(grid.numbers((d, h, w))[None], self.encoder.strides[-1]).to(self.device)
            place = ((shift + torch.tensor([0, 0, 0, *x.shape[2:]])) / shape.repeat(2) * 2 - 1)[None].to(self.device)
            boxes, scores, labels = (found.cpu() for found in self._best(self(x, spacing, place), size, least))
            boxes = boxes + shift
            middle = (boxes[:, :3] + boxes[:, 3:]) / 2
            mine = torch.ones(len(boxes), dtype=torch.bool)
            for axis, i in enumerate(index):
                low, high = _own(begun[axis], i, size[axis], grid.shape[axis])
                mine &= (middle[:, axis] >= low) & (middle[:, axis] < high)
            parts.append(Found(boxes[mine], scores[mine], labels[mine]))
            step()
        boxes, scores, labels = (torch.cat(part) for part in zip(*parts, strict=True))
        through = self.head.ndim == 2 and grid.shape[0] > 1
        kept = suppress(boxes, scores, labels, overlap=self.overlap, most=len(boxes) if through else self.most)
        found = Found(boxes[kept], scores[kept], labels[kept])
        return Found(*(part[: self.most] for part in linked(*found, overlap=self.overlap))) if through else found

    def _best(self, dense: Dense, size: list[int], least: float) -> Found:
        """Of one tile: the likeliest boxes, or what a second look makes of them."""
        if self.second is None:
            boxes, scores, labels = self.propose(dense, 0, size, most=self.most)
        else:
            boxes = self.propose(dense, 0, size, most=self.second.proposals).boxes
            logits, deltas = self.second(dense.features, dense.strides, [boxes])
            boxes, p = self.second.correct(logits, deltas, boxes)
            classes = len(self.labels)
            boxes = clip_boxes(boxes, size).repeat_interleave(classes, 0)
            scores, labels = p.flatten(), torch.arange(classes, device=p.device).repeat(len(p))
        above = scores >= least
        boxes, scores, labels = boxes[above], scores[above], labels[above]
        kept = suppress(boxes, scores, labels, overlap=self.overlap, most=self.most)
        return Found(boxes[kept], scores[kept], labels[kept])


def load_detector(name: str | Path, *, device: str = "cpu") -> Detector:
    """Load a shipped detector by name, or a folder that training left; see `medfm.stored.load_stored`."""
    return load_stored(Detector, name, device=device)


def _own(begun: list[int], index: int, size: int, total: int) -> tuple[float, float]:
    """The part of an axis that a tile answers for: up to the middle of what it shares with each neighbour."""
    low = 0.0 if index == 0 else (begun[index] + begun[index - 1] + size) / 2
    high = total + 1.0 if index == len(begun) - 1 else (begun[index + 1] + begun[index] + size) / 2
    return low, high
