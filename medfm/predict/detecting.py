"""Boxes around what a detector knows: a scan in, boxes in the scan's own space out, with their sizes in mm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medfm.image.boxes import scan_box
from medfm.scan import Box, Scan

if TYPE_CHECKING:
    from medfm.detector import Detector

__all__ = ["box_size", "detect"]


def detect(model: Detector, scan: Scan, *, threshold: float | None = None) -> list[Box]:
    """The boxes of `model.labels` in `scan`, likeliest first, in RAS mm of a patient or in pixels of a picture.

    threshold: lowest score of a box that is shown (default: the model's own). The scan is read tile by tile where it is
    larger than the model's patch.
    """
    grid = model.preparation(scan)
    least = model.threshold if threshold is None else threshold
    found = model.find(grid, least=least)
    rows = zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
    return [scan_box(scan, b, grid.shape, label=model.labels[kind], score=score) for b, score, kind in rows]


def box_size(scan: Scan, box: Box) -> tuple[tuple[float, ...], str]:
    """The sides of a box and their unit: along right, front and top in mm, or along columns and rows in mm, or in
    pixels of a picture whose spacing nobody knows."""
    sides = tuple(high - low for low, high in zip(box.low, box.high, strict=True))
    if len(sides) == 3:
        return sides, "mm"
    if scan.spacing_known:
        return (sides[0] * scan.spacing[0], sides[1] * scan.spacing[1]), "mm"
    return sides, "pixels"
