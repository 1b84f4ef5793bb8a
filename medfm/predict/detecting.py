"""Boxes around what a detector knows: a scan in, boxes in the scan's own space out, with their sizes in mm."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from medfm.image.boxes import grid_box, scan_box
from medfm.predict.airspace import lungs
from medfm.predict.called import verb
from medfm.scan import Box, Scan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from medfm.detector import Detector
    from medfm.nn.tiles import Part

__all__ = ["box_size", "detect"]

_AROUND = 5.0  # mm on all sides of a box
_LUNG = 0.4  # of a box and what is around it: the aorta beside a lung has 0.24 at most, what is planted in lungs 0.59


@verb
def detect(model: Detector, scan: Scan, *, threshold: float | None = None) -> list[Box]:
    """The boxes of `model.labels` in `scan`, likeliest first, in RAS mm of a patient or in pixels of a picture.

    threshold: lowest score of a box that is shown (default: the model's own). The scan is read tile by tile where it is
    larger than the model's patch. Of a model that looks for things in lungs only boxes among air of the lungs are left,
    as candidates in LUNA16 are: none in a scan where no lungs are found. Of such a scan only the lungs and what a tile
    sees around its own part are read, in a chest a third of it.
    """
    least = model.threshold if threshold is None else threshold
    inside = lungs(scan) if model.place == "lungs" else None
    if model.place == "lungs" and inside is None:
        return []
    grid = model.preparation(scan)
    part = None if inside is None else _around(inside.array, grid.shape, model.patch)
    found = model.find(grid, least=least, part=part)
    rows = zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
    boxes = [
        scan_box(scan, b, grid.shape, label=model.labels[kind], score=score, displayed=model.preparation.displayed)
        for b, score, kind in rows
    ]
    return boxes if inside is None else [b for b in boxes if _share(inside.array > 0, scan, b) > _LUNG]


def _around(inside: NDArray[np.uint8], shape: Sequence[int], patch: Sequence[int]) -> Part:
    """What is read of a grid of `shape`: the smallest box that holds all of `inside`, a map of the scan, and a quarter
    of a patch on its sides."""
    part = []
    for axis in range(3):
        rest = tuple(other for other in range(3) if other != axis)
        seen, scale = np.flatnonzero(inside.any(rest)), shape[axis] / inside.shape[axis]
        low, high = seen[0] * scale - patch[axis] / 4, (seen[-1] + 1) * scale + patch[axis] / 4
        part.append(slice(max(0, math.floor(low)), min(shape[axis], math.ceil(high))))
    return part[0], part[1], part[2]


def _share(inside: NDArray[np.bool_], scan: Scan, box: Box) -> float:
    """How much of a box and its surroundings lies `inside`."""
    edges, reach = np.array(grid_box(scan, box, inside.shape)), _AROUND / np.array(scan.spacing[::-1])
    low = np.floor(edges[:3] - reach).clip(min=0).astype(int)
    high = np.ceil(edges[3:] + reach).astype(int)
    return float(inside[tuple(map(slice, low, high))].mean())


def box_size(scan: Scan, box: Box) -> tuple[tuple[float, ...], str]:
    """The sides of a box and their unit: along right, front and top in mm, or along columns and rows in mm, or in
    pixels of a picture whose spacing nobody knows."""
    sides = tuple(high - low for low, high in zip(box.low, box.high, strict=True))
    if len(sides) == 3:
        return sides, "mm"
    if scan.spacing_known:
        return (sides[0] * scan.spacing[0], sides[1] * scan.spacing[1]), "mm"
    return sides, "pixels"
