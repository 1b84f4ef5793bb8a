"""From the place of a thing on displayed slices to its place in the patient."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from medfm.scan import Scan

__all__ = ["corners_of", "edges_of", "rectangle_of", "slice_of"]

_Corner = tuple[float, float, float]
# For each plane: the voxel axis (0 = W, 1 = H, 2 = D) that slice, row and column run along, and whether backwards.
_ORDER = {
    "axial": ((2, False), (1, True), (0, True)),
    "coronal": ((1, True), (2, True), (0, True)),
    "sagittal": ((0, True), (2, True), (1, True)),
    "stored": ((2, False), (1, False), (0, False)),  # no plane: the scan's own D, H, W
}


def corners_of(
    scan: Scan, first: _Corner, last: _Corner, *, plane: str | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Opposite corners, low and high, of a box given on the slices of `scan.slices(plane)`.

    first, last: (slice, row, column) edges in source pixels, 0 = the outer edge of the first one. Returns (x, y, z) in
    RAS mm, or (column, row) in pixels for a picture without patient geometry.
    """
    depth, height, width = scan.data.shape[1:]
    if plane is None or scan.frame == "image":
        low, high = (np.clip((corner[2], corner[1]), 0, (width, height)).tolist() for corner in (first, last))
        return tuple(low), tuple(high)
    edges = np.empty((2, 3))
    sizes = (width, height, depth)
    for (axis, backwards), a, b in zip(_ORDER[plane], first, last, strict=True):
        a, b = np.clip((a, b), 0, sizes[axis])
        edges[:, axis] = (sizes[axis] - b, sizes[axis] - a) if backwards else (a, b)
    points = np.array(
        [[*(edges[side, axis] - 0.5 for axis, side in enumerate(sides)), 1] for sides in product((0, 1), repeat=3)]
    )
    mm = points @ scan.affine[:3].T
    return tuple(mm.min(0).tolist()), tuple(mm.max(0).tolist())


def rectangle_of(
    scan: Scan, low: tuple[float, ...], high: tuple[float, ...], *, plane: str | None = None
) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of a box on the displayed slices of `plane`, as shares of their width and height.

    low, high: corners as `corners_of` gives them, in RAS mm or in pixels of a picture.
    """
    (_, top, left), (_, bottom, right) = edges_of(scan, low, high, plane=plane)
    rows, columns = scan.slices(plane)[0].shape[2:]
    return left / columns, top / rows, right / columns, bottom / rows


def edges_of(
    scan: Scan, low: tuple[float, ...], high: tuple[float, ...], *, plane: str | None = None
) -> list[list[float]]:
    """The way back of `corners_of`: the first and last (slice, row, column) edges of a box on `scan.slices(plane)`."""
    depth, height, width = scan.data.shape[1:]
    if len(low) == 2:
        return [[0.0, low[1], low[0]], [float(depth), high[1], high[0]]]
    back = np.linalg.inv(scan.affine)
    points = np.array([[*corner, 1] for corner in product(*zip(low, high, strict=True))]) @ back[:3].T + 0.5
    edges = np.empty((2, 3))
    for number, (axis, backwards) in enumerate(_ORDER[plane or scan.best_plane or "axial"]):
        size = (width, height, depth)[axis]
        ends = np.clip([points[:, axis].min(), points[:, axis].max()], 0, size)
        edges[:, number] = (size - ends[1], size - ends[0]) if backwards else ends
    done: list[list[float]] = edges.tolist()
    return done


def slice_of(scan: Scan, place: Sequence[float], *, plane: str | None = None) -> int:
    """The number of the displayed slice of `plane` that holds a place, (d, h, w) edges in voxels."""
    axis, backwards = _ORDER[plane or scan.best_plane or "axial"][0]
    count = (scan.data.shape[3], scan.data.shape[2], scan.data.shape[1])[axis]
    index = min(max(int(place[2 - axis]), 0), count - 1)
    return count - 1 - index if backwards else index
