"""What a person marks, outlined by brightness alone: no model, so it works for anything that stands out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medfm.errors import ScanError
from medfm.scan import Mask, Scan

__all__ = ["enclose", "grow"]

_REACH = 150.0  # mm, or pixels of a picture without spacing: how far a region may grow from the click
_WIDTH = 2.5  # deviations around the mean of a region that still belong to it
_ROUNDS = 4
_SMOOTH = 0.7  # voxels: noise is not an edge
_SEED = 2  # voxels around the click that the first mean and deviation are taken of
_LEAST = 0.02  # of the range of intensities: deviation of a neighbourhood without any noise


def grow(scan: Scan, point: Sequence[float]) -> Mask | None:
    """The connected region around `point` whose brightness is like the point's (confidence connected, ITK).

    point: RAS mm, or (column, row) of a picture. None: it runs into the surroundings and means nothing. Raises
    ScanError: the point lies outside of the scan.
    """
    from scipy import ndimage

    values, seed = _grey(scan), _index(scan, point)
    reach = [max(1, int(_REACH / mm)) for mm in reversed(scan.spacing)]
    window = tuple(slice(max(0, i - r), min(n, i + r + 1)) for i, r, n in zip(seed, reach, values.shape, strict=True))
    part, inner = (
        ndimage.gaussian_filter(values[window], _SMOOTH),
        tuple(i - w.start for i, w in zip(seed, window, strict=True)),
    )
    start = tuple(slice(max(0, i - _SEED), i + _SEED + 1) for i in inner)
    floor = _LEAST * float(np.ptp(np.percentile(values, (1, 99))))
    about = part[start]
    region = np.zeros(part.shape, bool)
    for _ in range(_ROUNDS):
        mean, spread = float(about.mean()), max(float(about.std()), floor, 1e-6)
        like = np.abs(part - mean) <= _WIDTH * spread
        like[inner] = True
        parts, _ = ndimage.label(like)
        region = parts == parts[inner]
        about = part[region]
    cut = [w.start > 0 or w.stop < n for w, n in zip(window, values.shape, strict=True)]
    if region.mean() > 0.5 or any(_touches(region, axis) for axis in range(3) if cut[axis]):
        return None
    near = ndimage.binary_dilation(region, iterations=2)
    ring = ndimage.binary_dilation(near, iterations=2) & ~near
    if ring.any():  # the edge lies half-way between the region and what is around it
        inside, outside = float(part[region].mean()), float(np.median(part[ring]))
        region = near & (np.abs(part - inside) < np.abs(part - outside)) | region
    whole = np.zeros(values.shape, np.uint8)
    whole[window] = ndimage.binary_fill_holes(region)
    return Mask(whole, scan.affine, {1: "Marked region"})


def enclose(scan: Scan, low: Sequence[float], high: Sequence[float]) -> Mask | None:
    """The thing in the middle of a box drawn on one slice: what is more like the middle than like the box's edge and
    hangs together with the middle, without holes.

    low, high: corners in RAS mm that share one coordinate, or (column, row) of a picture. None: nothing stands out.
    Raises ScanError: the box has no inside, or lies outside of the scan.
    """
    from scipy import ndimage

    values = _grey(scan)
    ends = np.array([_index(scan, corner) for corner in (low, high)])
    first, last = ends.min(0), ends.max(0)
    across = int((last - first).argmin())
    if any(last[axis] - first[axis] < 3 for axis in range(3) if axis != across):
        raise ScanError("The box is too small: drag it around the thing, with a little of its surroundings.")
    layer = (first[across] + last[across]) // 2
    window = [slice(a, b + 1) for a, b in zip(first, last, strict=True)]
    window[across] = slice(layer, layer + 1)
    part = ndimage.gaussian_filter(values[tuple(window)].squeeze(across), _SMOOTH)
    edge = np.ones(part.shape, bool)
    edge[2:-2, 2:-2] = False
    (top, rows), (left, columns) = ((size // 2, max(1, size // 12)) for size in part.shape)
    middle = part[top - rows : top + rows + 1, left - columns : left + columns + 1]
    inside, outside = float(np.median(middle)), float(np.median(part[edge]))
    if abs(inside - outside) < 2 * max(float(middle.std()), 1e-6):
        return None
    parts, _ = ndimage.label(np.abs(part - inside) < np.abs(part - outside))
    if not parts[top, left]:
        return None
    region = ndimage.binary_fill_holes(parts == parts[top, left])
    whole = np.zeros(values.shape, np.uint8)
    whole[tuple(window)] = np.expand_dims(region, across)
    return Mask(whole, scan.affine, {1: "Marked region"})


def _grey(scan: Scan) -> NDArray[np.float32]:
    """(D, H, W): the only channel, or the mean of several."""
    grey: NDArray[np.float32] = np.asarray(scan.data, np.float32).mean(0)
    return grey


def _index(scan: Scan, point: Sequence[float]) -> tuple[int, int, int]:
    """(d, h, w) of the voxel that a point lies in. Raises ScanError outside of the scan."""
    if scan.frame == "image":
        place = np.array([point[0], point[1], 0.0]) // 1
    elif len(point) != 3:
        raise ScanError(f"A point in this scan has three coordinates in mm; found {len(point)}.")
    else:
        place = np.rint(np.linalg.inv(scan.affine)[:3] @ (*point, 1.0))
    w, h, d = (int(value) for value in place)
    if any(not 0 <= i < n for i, n in zip((d, h, w), scan.data.shape[1:], strict=True)):
        raise ScanError("That place lies outside of the scan.")
    return d, h, w


def _touches(region: NDArray[np.bool_], axis: int) -> bool:
    """It reaches an end of the window along `axis`."""
    return bool(region.take(0, axis).any() or region.take(-1, axis).any())
