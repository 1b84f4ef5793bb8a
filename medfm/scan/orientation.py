"""Affines and anatomical axes: lossless reorientation to RAS, DICOM's LPS to RAS, planes and their display order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medfm.errors import ScanError

__all__ = [
    "PLANES",
    "axes_of",
    "best_plane",
    "canonical",
    "check_affine",
    "diagonal_affine",
    "display",
    "displayed_at",
    "lps_to_ras",
    "plane_of_direction",
    "spacing_of",
]

PLANES = ("sagittal", "coronal", "axial")  # the plane whose slices are stacked along R, A, S
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def lps_to_ras(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn an affine to DICOM or ITK patient coordinates (Left, Posterior, Superior) into one to RAS."""
    return _LPS_TO_RAS @ affine


def diagonal_affine(spacing: tuple[float, float, float]) -> NDArray[np.float64]:
    """Affine of a grid without patient geometry: (W, H, D) spacing on the diagonal, origin 0."""
    return np.diag([*spacing, 1.0]).astype(np.float64)


def spacing_of(affine: NDArray[np.float64]) -> tuple[float, float, float]:
    """Voxel size in mm along (W, H, D): the lengths of the affine's columns."""
    lengths = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    return (float(lengths[0]), float(lengths[1]), float(lengths[2]))


def check_affine(affine: NDArray[np.float64], shown: str) -> None:
    """Raise ScanError unless the affine is 4x4, finite, invertible and of a believable voxel size (1 nm to 10 m)."""
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise ScanError(f"{shown}: the affine is not a 4x4 matrix of finite numbers; its header is damaged.")
    spacing = spacing_of(affine)
    if min(spacing) < 1e-6 or max(spacing) > 1e4:
        raise ScanError(
            f"{shown}: voxel size {' x '.join(f'{s:g}' for s in spacing)} mm; each must be a positive length in mm. "
            "Correct the spacing in the header."
        )
    directions = affine[:3, :3] / np.asarray(spacing)
    if abs(np.linalg.det(directions)) < 1e-3:
        raise ScanError(
            f"{shown}: the affine cannot be inverted (two axes point the same way); its orientation is damaged."
        )


def _axis_map(affine: NDArray[np.float64]) -> list[tuple[int, int]]:
    """For each array axis (W, H, D): the closest RAS axis and its sign, chosen as nibabel's io_orientation does."""
    directions = affine[:3, :3] / np.asarray(spacing_of(affine))
    left, _, right = np.linalg.svd(directions, full_matrices=False)
    rotation = left @ right  # the closest matrix without shear
    found: list[tuple[int, int]] = [(0, 1)] * 3
    for axis in np.argsort(np.min(-(rotation**2), axis=0), kind="stable"):
        column = rotation[:, axis]
        target = int(np.argmax(np.abs(column)))
        found[axis] = (target, -1 if column[target] < 0 else 1)
        rotation[target, :] = 0
    return found


def axes_of(affine: NDArray[np.float64]) -> str:
    """Where the array axes W, H, D grow to, as nibabel's aff2axcodes says it: "LPS" for what DICOM slices make."""
    return "".join(("RAS" if sign > 0 else "LPI")[target] for target, sign in _axis_map(affine))


def canonical(data: NDArray, affine: NDArray[np.float64]) -> tuple[NDArray, NDArray[np.float64]]:
    """Flip and transpose (C, D, H, W) data so that W grows to Right, H to Anterior and D to Superior.

    Nothing is interpolated: an oblique scan stays oblique in the returned affine. Returns a view where possible.
    """
    axes = _axis_map(affine)
    shape = data.shape[:0:-1]  # (W, H, D)
    undo = np.zeros((4, 4))  # canonical index -> original index
    undo[3, 3] = 1.0
    volume = data.transpose(0, 3, 2, 1)
    for axis, (target, sign) in enumerate(axes):
        undo[axis, target] = sign
        if sign < 0:
            undo[axis, 3] = shape[axis] - 1
            volume = np.flip(volume, axis + 1)
    order = [0] * 3
    for axis, (target, _) in enumerate(axes):
        order[target] = axis
    volume = volume.transpose(0, *(axis + 1 for axis in order))
    return volume.transpose(0, 3, 2, 1), affine @ undo


def plane_of_direction(normal: NDArray[np.float64]) -> str:
    """The plane whose slices are stacked along a direction (RAS or LPS: signs do not matter)."""
    return PLANES[int(np.argmax(np.abs(normal)))]


def best_plane(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> str:
    """The acquired plane of canonical (W, H, D) `shape` and `spacing`: the axis of size 1, else of the clearly
    largest spacing (5 % over the second), else axial."""
    single = [axis for axis in range(3) if shape[axis] == 1]
    if len(single) == 1:
        return PLANES[single[0]]
    order = np.argsort(spacing)
    if spacing[order[2]] > 1.05 * spacing[order[1]]:
        return PLANES[int(order[2])]
    return "axial"


def display(
    data: NDArray, spacing: tuple[float, float, float], plane: str
) -> tuple[NDArray, tuple[float, float, float]]:
    """Slices of canonical data in radiological order: a (C, N, rows, cols) view and (slice, row, col) spacing in mm."""
    w, h, d = spacing
    if plane == "axial":  # rows to Posterior, columns to Left, slices to Superior
        return data[:, :, ::-1, ::-1], (d, h, w)
    if plane == "coronal":  # rows to Inferior, columns to Left, slices to Posterior
        return data[:, ::-1, ::-1, ::-1].transpose(0, 2, 1, 3), (h, d, w)
    # sagittal: rows to Inferior, columns to Posterior, slices to Left
    return data[:, ::-1, ::-1, ::-1].transpose(0, 3, 1, 2), (w, d, h)


def displayed_at(voxels: NDArray[np.int64], shape: tuple[int, int, int], plane: str) -> NDArray[np.int64]:
    """Where `display` shows voxels (N, 3) of canonical data of `shape` (D, H, W): slice, row, column of each."""
    d, h, w = (np.array(shape) - 1 - voxels).T
    columns = {"axial": (voxels[:, 0], h, w), "coronal": (h, d, w), "sagittal": (w, d, h)}
    return np.stack(columns[plane], axis=1)
