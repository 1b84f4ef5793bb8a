"""What a person marks, outlined by brightness alone: no model, so it works for anything that stands out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medfm.errors import ScanError
from medfm.scan import Mask, Scan

__all__ = ["enclose", "grow", "index_of"]

_REACH = 150.0  # mm, or pixels of a picture without spacing: how far a region may grow from the click
_WIDTH = 2.5  # deviations around the mean of a region that still belong to it
_ROUNDS = 4
_EVEN = 1.5  # voxels: texture within a box is not an edge
_ROUND = 16.0  # how much a place in the box counts beside its colour; chosen on 120 skin lesions
_SMOOTH = 0.7  # voxels: noise is not an edge
_SEED = 2  # voxels around the click that the first mean and deviation are taken of
_LEAST = 0.02  # of the range of intensities: deviation of a neighbourhood without any noise


def grow(scan: Scan, point: Sequence[float]) -> Mask | None:
    """The connected region around `point` whose brightness is like the point's (confidence connected, ITK).

    point: RAS mm, or (column, row) of a picture. None: it runs into the surroundings and means nothing. Raises
    ScanError: the point lies outside of the scan.
    """
    from scipy import ndimage

    values, seed = _grey(scan), index_of(scan, point)
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
    return scan.mask(whole, {1: "Marked region"})


def enclose(scan: Scan, low: Sequence[float], high: Sequence[float]) -> Mask | None:
    """The thing in a box drawn on one slice: the largest part whose colour is more like the middle's than like the
    corners', and the more so the farther from the middle; without holes.

    low, high: corners in RAS mm that share one coordinate, or (column, row) of a picture. None: nothing stands out.
    Raises ScanError: the box has no inside, or lies outside of the scan.
    """
    from scipy import ndimage

    values = _grey(scan)
    ends = np.array([index_of(scan, corner) for corner in (low, high)])
    first, last = ends.min(0), ends.max(0)
    across = int((last - first).argmin())
    if any(last[axis] - first[axis] < 3 for axis in range(3) if axis != across):
        raise ScanError("The box is too small: drag it around the thing, with a little of its surroundings.")
    layer = (first[across] + last[across]) // 2
    window = [slice(a, b + 1) for a, b in zip(first, last, strict=True)]
    window[across] = slice(layer, layer + 1)
    colours = np.asarray(scan.data, np.float32)[(slice(None), *window)].squeeze(across + 1)
    part = ndimage.gaussian_filter(colours, (0, _EVEN, _EVEN))  # (C, rows, columns)
    rows, columns = (np.arange(size) - (size - 1) / 2 for size in part.shape[1:])
    radius = (rows[:, None] / (len(rows) / 2)) ** 2 + (columns / (len(columns) / 2)) ** 2  # 1 on the box's ellipse
    middle, corners = part[:, radius < 0.4], part[:, radius > 1.1]
    inside, outside = middle.mean(1), corners.mean(1)
    spread = float((middle.std(1).mean() ** 2 + corners.std(1).mean() ** 2) ** 0.5)
    if np.linalg.norm(inside - outside) < max(0.5 * spread, 1e-6):
        return None
    away_in, away_out = (((part - colour[:, None, None]) ** 2).sum(0) for colour in (inside, outside))
    like = (away_out - away_in) / max(spread**2, 1e-6) + _ROUND * (0.9 - radius) > 0
    parts, count = ndimage.label(like)
    if not count:
        return None
    largest = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    region = ndimage.binary_fill_holes(parts == largest)
    whole = np.zeros(values.shape, np.uint8)
    whole[tuple(window)] = np.expand_dims(region, across)
    return scan.mask(whole, {1: "Marked region"})


def _grey(scan: Scan) -> NDArray[np.float32]:
    """(D, H, W): the only channel, or the mean of several."""
    grey: NDArray[np.float32] = np.asarray(scan.data, np.float32).mean(0)
    return grey


def index_of(scan: Scan, point: Sequence[float]) -> tuple[int, int, int]:
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
