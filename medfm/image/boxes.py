"""Boxes on a scan and on a network's grid of it; patches with the boxes in them, turned, scaled, mirrored as one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from medfm.image.geometry import corners_of, edges_of, slice_of
from medfm.image.patches import patch_grid
from medfm.scan.results import Box
from medfm.scan.scan import Scan

__all__ = ["grid_box", "move_boxes", "sample_boxed", "scan_box"]

Shape = tuple[int, int, int]


def sample_boxed(
    x: Tensor, boxes: Tensor, *, centre: Sequence[float], patch: Shape, matrix: Tensor, least: float = 0.4
) -> tuple[Tensor, Tensor, Tensor]:
    """Crop and warp in one go: x (C, D, H, W), boxes (N, 6) -> (C, *patch), (M, 6) and the numbers (M,) of those kept.

    Where voxels come from: see `medfm.image.patches.patch_grid`; beyond the scan there is 0. A box is kept where at
    least `least` of it lies in the patch; of a patch of one slice, where that slice passes through the box and at least
    `least` of the section lies in it.
    """
    grid = patch_grid(x.shape[1:], centre=centre, patch=patch, matrix=matrix)
    warped = F.grid_sample(x[None], grid, align_corners=False)[0]
    moved = move_boxes(boxes, centre=centre, patch=patch, matrix=matrix)
    limits = torch.tensor(patch, dtype=torch.float32)
    inside = torch.cat([moved[:, :3].clamp(min=0), torch.minimum(moved[:, 3:], limits)], 1)
    sides, whole = (inside[:, 3:] - inside[:, :3]).clamp(min=0), moved[:, 3:] - moved[:, :3]
    shares = sides / whole
    if patch[0] == 1:
        shares[:, 0] = (sides[:, 0] >= 0.5).float()
    kept = (shares.prod(1) >= least).nonzero()[:, 0]
    return warped, inside[kept], kept


def move_boxes(boxes: Tensor, *, centre: Sequence[float], patch: Shape, matrix: Tensor) -> Tensor:
    """(N, 6) boxes of the scan where they lie in the patch: the smallest that hold their eight corners."""
    middle = (torch.tensor(patch, dtype=torch.float32) - 1) / 2
    corners = torch.stack([boxes[:, [a, b, c]] for a, b, c in product((0, 3), (1, 4), (2, 5))], 1)
    there = (corners - 0.5 - torch.tensor(list(centre))) @ torch.linalg.inv(matrix).T + middle + 0.5
    return torch.cat([there.amin(1), there.amax(1)], 1)


def grid_box(scan: Scan, box: Box, shape: Sequence[int], *, displayed: bool = False) -> list[float]:
    """A box of `scan` on a grid of `shape` (D, H, W) voxels over the same field: edges (d0, h0, w0, d1, h1, w1).

    displayed: the grid is one of displayed slices, see `GridPrepare`.
    """
    sizes, plane = _field(scan, displayed)
    edges = np.clip(edges_of(scan, box.low, box.high, plane=plane), 0, sizes) * np.array(shape) / sizes
    flat: list[float] = edges.ravel().tolist()
    return flat


def scan_box(
    scan: Scan, edges: Sequence[float], shape: Sequence[int], *, label: str, score: float, displayed: bool = False
) -> Box:
    """The inverse of `grid_box`: in RAS mm for a scan of a patient, in pixels (column, row) for a picture."""
    sizes, plane = _field(scan, displayed)
    first, last = np.clip(np.reshape(edges, (2, 3)) / np.array(shape), 0, 1) * sizes
    low, high = corners_of(scan, tuple(first), tuple(last), plane=plane)
    middle = (first + last) / 2
    if scan.frame == "image":
        return Box(label, low, high, float(score))
    index = min(int(middle[0]), int(sizes[0]) - 1) if displayed else slice_of(scan, middle)
    return Box(label, low, high, float(score), index)


def _field(scan: Scan, displayed: bool) -> tuple[NDArray[np.int64], str]:
    """Voxels along slice, row and column, and the plane of `medfm.image.geometry` that orders them so."""
    if displayed:
        return np.array(scan.slices()[0].shape[1:]), scan.best_plane or "axial"
    return np.array(scan.data.shape[1:]), "stored"
