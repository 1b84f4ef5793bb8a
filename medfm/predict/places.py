"""Where in the scan a structure map points: its pieces, each with a box in the scan's space and a place in the view."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm.image.geometry import corners_of
from medfm.scan import Scan
from medfm.scan.results import Box

if TYPE_CHECKING:
    from medfm.model import Reading

__all__ = ["Piece", "highest", "inside", "pieces"]

_CELLS = 8  # of a volume's map must say so: among dozens of slices a cell or two always do


class Piece(NamedTuple):
    """One connected part of a map: its box; its middle (slice, row, column) as shares of the view, 0 to 1; its size
    as a share of the largest part's."""

    box: Box
    middle: tuple[float, float, float]
    share: float


def inside(reading: Reading, probability: NDArray[np.float32]) -> NDArray[np.float32]:
    """The map (D, h, w) without the cells that lie in the black border around the picture."""
    top, left = (math.ceil(o * probability.shape[-1] / reading.prepared.x.shape[-1]) for o in reading.prepared.offset)
    kept = np.zeros_like(probability)
    middle = (slice(None), slice(top, -top or None), slice(left, -left or None))
    kept[middle] = probability[middle]
    return kept


def highest(probability: NDArray[np.float32]) -> float:
    """How sure a map (D, h, w) is anywhere: its highest value; of a volume the eighth."""
    return float(np.sort(probability, axis=None)[-(_CELLS if probability.shape[0] > 1 else 1)])


def pieces(
    scan: Scan, reading: Reading, label: str, probability: NDArray[np.float32], *, least: float = 0.5
) -> list[Piece]:
    """The connected parts of a map (D, h, w) above `least`, the largest first; none where it is nowhere above.

    Boxes are in mm of the patient or pixels of the picture.
    """
    from scipy import ndimage

    numbered, count = ndimage.label(probability > least)
    sizes = np.bincount(numbered.ravel(), minlength=count + 1)[1:]
    order = sorted(range(count), key=lambda n: -sizes[n])
    return [_piece(scan, reading, label, probability, numbered == n + 1, sizes[n] / sizes[order[0]]) for n in order]


def _piece(
    scan: Scan, reading: Reading, label: str, probability: NDArray[np.float32], part: NDArray[np.bool_], share: float
) -> Piece:
    prepared = reading.prepared
    own = probability * part
    depth, rows, columns = (np.flatnonzero(part.any(axis)) for axis in ((1, 2), (0, 2), (0, 1)))
    cell = prepared.x.shape[-1] / probability.shape[-1]
    corners = []
    for d, r, c in ((depth[0], rows[0], columns[0]), (depth[-1] + 1, rows[-1] + 1, columns[-1] + 1)):
        row, column = ((v * cell - o) / prepared.scale for v, o in zip((r, c), prepared.offset, strict=True))
        corners.append((d * prepared.slab, row, column))
    best = int(own.max((1, 2)).argmax() * prepared.slab + prepared.slab / 2)
    low, high = corners_of(scan, corners[0], corners[1], plane=prepared.plane)
    centre = [(index + 0.5) @ own.sum(axis) / own.sum() for index, axis in zip(
        (np.arange(n) for n in own.shape), ((1, 2), (0, 2), (0, 1)), strict=True)]  # fmt: skip
    view = [own.shape[0], *(prepared.x.shape[-1] - 2 * o for o in prepared.offset)]
    shift = (0, *prepared.offset)
    scale = (1, cell, cell)
    middle = tuple(float((c * s - o) / v) for c, s, o, v in zip(centre, scale, shift, view, strict=True))
    return Piece(Box(label, low, high, float(own.max()), best), (middle[0], middle[1], middle[2]), float(share))
