"""Where the points of one scan lie in another: what a registration gives, applied to points, volumes and masks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medfm.errors import ShapeError
from medfm.scan.results import Mask
from medfm.scan.scan import Scan
from medfm.scan.transforms import read_transform, write_field, write_transform

__all__ = ["Alignment"]

Points = NDArray[np.float64]
_SLAB = 2_000_000  # voxels whose places are held in memory at once


@dataclass(frozen=True, eq=False)
class Alignment:
    """A point x of the fixed scan, in RAS mm, lies at matrix @ (x + u(x)) in the moving scan.

    matrix: 4x4. field: u as (3, D, H, W) float32, its components x, y, z in RAS mm, or None; affine: 4x4, index
    (w, h, d) of the field to RAS mm. Outside its grid u is that of the nearest border. method: how it was found.

    Raises:
        ShapeError: a matrix that is not an invertible 4x4, or a field of another shape.
    """

    matrix: NDArray[np.float64]
    field: NDArray[np.float32] | None = None
    affine: NDArray[np.float64] | None = None
    method: str = ""

    def __post_init__(self) -> None:
        if self.matrix.shape != (4, 4) or not abs(np.linalg.det(self.matrix)) > 1e-9:
            raise ShapeError(f"An alignment needs an invertible 4x4 matrix; got {self.matrix.tolist()}.")
        if (self.field is None) != (self.affine is None):
            raise ShapeError("A displacement field and the affine of its grid come together; got one of them.")
        if self.field is not None and (self.field.ndim != 4 or len(self.field) != 3):
            raise ShapeError(f"A displacement field is (3, D, H, W); got {self.field.shape}.")

    def __repr__(self) -> str:
        """What a notebook shows, without the numbers of the field."""
        shift = ", ".join(f"{v:.1f}" for v in self.matrix[:3, 3])
        moved = "" if self.field is None else f", a field up to {np.linalg.norm(self.field, axis=0).max():.1f} mm"
        return f"Alignment({self.method or 'of another program'}: a matrix that shifts by ({shift}) mm{moved})"

    def points(self, points: ArrayLike) -> Points:
        """Where points (N, 3) of the fixed scan lie in the moving one; RAS mm."""
        x = np.asarray(points, dtype=np.float64).reshape(-1, 3)
        return _mapped(self.matrix, x + self._moved(x))

    def points_back(self, points: ArrayLike, *, steps: int = 50) -> Points:
        """Where points (N, 3) of the moving scan lie in the fixed one, by fixed-point iteration; RAS mm.

        Exact to a hundredth of a mm where the field does not fold (Chen et al., Medical Physics 2008).
        """
        start = _mapped(np.linalg.inv(self.matrix), np.asarray(points, dtype=np.float64).reshape(-1, 3))
        x = start
        for _ in range(steps if self.field is not None else 0):
            last, x = x, start - self._moved(x)
            if np.abs(x - last).max(initial=0) < 1e-3:
                break
        return x

    def warp(self, moving: Scan, like: Scan, *, edge: bool = False) -> Scan:
        """`moving`, or another scan in its space, on the grid of `like`, linear between voxels.

        What lies outside of it has its lowest value, or with `edge` that of its nearest voxel. Whole
        numbers stay whole.
        """
        from scipy.ndimage import map_coordinates

        beyond: dict[str, Any] = {"mode": "nearest"}
        if not edge:
            beyond = {"mode": "grid-constant", "cval": float(moving.data.min())}
        result = np.empty((len(moving.data), *like.data.shape[1:]), dtype=moving.data.dtype)
        for rows, index in self._indices(moving.affine, like):
            for channel, target in zip(moving.data, result, strict=True):
                values = map_coordinates(channel, index, output=np.float32, order=1, **beyond)
                whole = np.issubdtype(target.dtype, np.integer)
                target[rows] = (np.round(values) if whole else values).reshape(target[rows].shape)
        return replace(
            moving, data=result, affine=like.affine, frame=like.frame, plane=like.plane, axes=like.axes,
            spacing_known=like.spacing_known, notes=[*moving.notes, "Resampled onto another scan's grid."],
        )  # fmt: skip

    def warp_mask(self, mask: Mask, like: Scan) -> Mask:
        """A mask in the space of the moving scan on the grid of `like`: the label of the nearest voxel."""
        from scipy.ndimage import map_coordinates

        result = np.zeros(like.data.shape[1:], dtype=np.uint8)
        for rows, index in self._indices(mask.affine, like):
            result[rows] = map_coordinates(mask.array, index, order=0, mode="grid-constant").reshape(result[rows].shape)
        return like.mask(result, mask.labels)

    def displacement(self, like: Scan) -> NDArray[np.float32]:
        """(3, D, H, W): from each voxel of `like` to its place in the moving scan, by matrix and field; RAS mm."""
        result = np.empty((3, *like.data.shape[1:]), dtype=np.float32)
        for rows, x in _places(like):
            result[:, rows] = (self.points(x) - x).T.reshape(result[:, rows].shape)
        return result

    def jacobian(self) -> NDArray[np.float32]:
        """(D, H, W) on the field's grid: by how much the way to the moving scan enlarges the volume; 0 or less: folds.

        Central differences. Without a field one number, (1, 1, 1).
        """
        linear = np.linalg.det(self.matrix[:3, :3])
        if self.field is None or self.affine is None:
            return np.full((1, 1, 1), linear, dtype=np.float32)
        steps = np.zeros((*self.field.shape[1:], 3, 3))
        for axis in range(3):  # index axes W, H, D are the array's last to first
            if self.field.shape[3 - axis] > 1:
                steps[..., axis] = np.gradient(self.field, axis=3 - axis).transpose(1, 2, 3, 0)
        matrix = steps @ np.linalg.inv(self.affine[:3, :3]) + np.eye(3)
        result: NDArray[np.float32] = (np.linalg.det(matrix) * linear).astype(np.float32)
        return result

    def write(self, path: str | PathLike[str]) -> None:
        """As a transform that ITK, ANTs and Slicer read (.h5, .tfm), from fixed to moving. Raises ScanError."""
        write_transform(Path(path), self.matrix, self.field, self.affine)

    @classmethod
    def read(cls, path: str | PathLike[str]) -> Alignment:
        """What `write` wrote, or another linear or displacement field transform of ITK. Raises ScanError."""
        return cls(*read_transform(Path(path)), "read from a file")

    def write_field(self, path: str | PathLike[str], like: Scan) -> None:
        """`displacement(like)` as a NIfTI of vectors as ITK and ANTs write them (in LPS). Raises ScanError."""
        write_field(Path(path), self.displacement(like), like.affine)

    def _moved(self, x: Points) -> Points:
        if self.field is None or self.affine is None:
            return np.zeros_like(x)
        from scipy.ndimage import map_coordinates

        index = _mapped(np.linalg.inv(self.affine), x).T[::-1]
        parts = [map_coordinates(part, index, output=np.float64, order=1, mode="nearest") for part in self.field]
        return np.stack(parts, -1)

    def _indices(self, affine: NDArray[np.float64], like: Scan) -> Iterator[tuple[slice, Points]]:
        """Of each slab of `like`: where its voxels lie in a grid of the moving space, as (3, N) indices d, h, w."""
        back = np.linalg.inv(affine)
        for rows, x in _places(like):
            yield rows, _mapped(back, self.points(x)).T[::-1]


def _places(like: Scan) -> Iterator[tuple[slice, Points]]:
    """Slabs of a scan's slices with the places of their voxels, (N, 3) RAS mm."""
    depth, height, width = like.data.shape[1:]
    step = max(1, _SLAB // (height * width))
    for first in range(0, depth, step):
        rows = slice(first, min(first + step, depth))
        d, h, w = np.meshgrid(np.arange(first, rows.stop), np.arange(height), np.arange(width), indexing="ij")
        yield rows, _mapped(like.affine, np.stack([w, h, d], -1).reshape(-1, 3))


def _mapped(matrix: NDArray[Any], x: Points) -> Points:
    result: Points = x @ matrix[:3, :3].T + matrix[:3, 3]
    return result
