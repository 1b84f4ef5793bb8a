"""Scan: one picture or volume with its place in space, its modality and its notes, whatever file it came from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medfm.errors import ScanError
from medfm.scan import estimate, orientation
from medfm.scan.raw import Identity, RawScan, Request
from medfm.scan.results import Mask
from medfm.scan.silence import silence
from medfm.scan.values import finite, lean

__all__ = ["Scan"]


@dataclass(frozen=True, eq=False, repr=False)
class Scan:
    """A medical picture or volume. Treat it as read-only: `content_hash` is computed once.

    data: (C, D, H, W), C = 1 grey or 3 RGB (uint8). With `frame="patient"` W grows to the patient's Right, H to
    Anterior, D to Superior; with `frame="image"` the rows are as displayed, row 0 on top.
    affine: 4x4 float64, index (w, h, d, 1) to RAS mm, the same as nibabel's canonical affine.
    modality: a DICOM modality code, "PHOTO" or "UNKNOWN". units: "HU", "RGB" or "a.u.".
    estimated: names of the attributes that were estimated from the pixels or free text, not read from a header.
    notes: warnings in plain language, without patient identity. source: the kind of file, never its name.
    axes: where the axes W, H, D of the file or array grew to, "LPS" as an example; what is written lies so again.
    """

    data: NDArray
    affine: NDArray[np.float64]
    frame: Literal["patient", "image"]
    spacing_known: bool
    modality: str
    body_part: str | None
    plane: str | None
    units: str
    estimated: frozenset[str]
    notes: list[str]
    source: str
    axes: str = "RAS"
    _identity: Identity = field(default_factory=Identity)

    @classmethod
    def read(
        cls,
        path: str | PathLike[str],
        *,
        series: int | str | None = None,
        frame: int | None = None,
        spacing: float | tuple[float, ...] | None = None,
    ) -> Scan:
        """Read a file, a folder or a zip.

        series: which one, by its number in the list (from 0) or its UID, when there are several.
        frame: which one, from 0, of a cine loop, a 4D series or a picture with several pages.
        spacing: mm along (W, H) or (W, H, D), or one number for all, for files that do not carry it.
        Raises ScanError (what was found, what was expected, what to do); SeriesChoice, with `choices`, for several.
        """
        from medfm.scan.files import read_raw

        shown = fspath(path)
        request = Request(shown=shown, series=series, frame=frame, spacing=_three(spacing, shown))
        with silence():
            return cls._finish(read_raw(Path(path), request), request)

    @classmethod
    def from_array(
        cls,
        array: ArrayLike,
        *,
        affine: ArrayLike | None = None,
        spacing: float | tuple[float, ...] | None = None,
        modality: str = "UNKNOWN",
        body_part: str | None = None,
        units: str | None = None,
    ) -> Scan:
        """Make a scan of (H, W), (H, W, 3) uint8, (D, H, W) or (C, D, H, W) values.

        affine: 4x4, index (w, h, d) to RAS mm, in any orientation (the array is reoriented): gives `frame="patient"`.
        spacing: mm along (W, H) or (W, H, D), or one number, for `frame="image"`. Raises ScanError.
        """
        from medfm.scan.arrays import raw_from_array

        request = Request(shown="array", spacing=_three(spacing, "array"))
        raw = raw_from_array(np.asarray(array), affine, request)
        raw.modality, raw.body_part, raw.units = modality, body_part, units
        return cls._finish(raw, request)

    @classmethod
    def _finish(cls, raw: RawScan, request: Request) -> Scan:
        """Apply what is the same for every file kind: spacing, orientation, finite values, estimates."""
        if request.spacing is not None:
            _give_spacing(raw, request)
        orientation.check_affine(raw.affine, request.shown)
        data, affine = raw.data, np.asarray(raw.affine, dtype=np.float64)
        axes = "RAS"
        if raw.frame == "patient":
            axes = orientation.axes_of(affine)
            data, affine = orientation.canonical(data, affine)
        data = finite(np.require(lean(data), requirements=("C", "W")), raw.notes, request.shown)
        estimate.complete(raw, data, affine)
        return cls(
            data=data,
            affine=affine,
            frame=raw.frame,
            spacing_known=raw.spacing_known,
            modality=raw.modality,
            body_part=raw.body_part,
            plane=raw.plane,
            units=raw.units or "a.u.",
            estimated=frozenset(raw.estimated),
            notes=raw.notes,
            source=raw.source,
            axes=axes,
            _identity=raw.identity,
        )

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along (W, H, D); 1.0 where `spacing_known` is false."""
        return orientation.spacing_of(self.affine)

    @property
    def extent(self) -> tuple[float, float, float]:
        """The field of view in mm along D, H, W, as a network counts axes."""
        (_, d, h, w), (x, y, z) = self.data.shape, self.spacing
        return d * z, h * y, w * x

    @property
    def best_plane(self) -> str | None:
        """The plane the scan was acquired in (axial when isotropic); None for `frame="image"`."""
        if self.frame == "image":
            return None
        _, d, h, w = self.data.shape
        return self.plane or orientation.best_plane((w, h, d), self.spacing)

    def slices(self, plane: str | None = None) -> tuple[NDArray, tuple[float, float, float]]:
        """Slices as a radiologist sees them: a (C, N, rows, cols) view and its (slice, row, col) spacing in mm.

        axial: rows to Posterior, columns to Left, from inferior to superior. coronal: rows to Inferior, columns to
        Left, from anterior to posterior. sagittal: rows to Inferior, columns to Posterior, from right to left.
        `plane=None` takes `best_plane`. With `frame="image"` the data comes back as it is, whatever the plane.
        """
        if plane is not None and plane not in orientation.PLANES:
            raise ScanError(f"plane={plane!r} does not exist; choose axial, coronal or sagittal.")
        if self.frame == "image":
            w, h, d = self.spacing
            return self.data, (d, h, w)
        return orientation.display(self.data, self.spacing, plane or self.best_plane or "axial")

    @cached_property
    def content_hash(self) -> str:
        """sha256 of pixels, shape, type, affine (to 1 µm), modality and units; nothing of who the patient is."""
        place = np.round(self.affine, 3) + 0.0  # + 0.0 turns -0.0 into 0.0
        meaning = (self.data.shape, self.data.dtype.str, self.frame, self.modality, self.units)
        digest = hashlib.sha256(repr(meaning).encode() + place.tobytes())
        digest.update(np.ascontiguousarray(self.data).data.cast("B"))
        return digest.hexdigest()

    @property
    def series_uid(self) -> str:
        """DICOM's SeriesInstanceUID, "" where there is none: exports refer to the series that was read."""
        return str(self._identity.get("SeriesInstanceUID", ""))

    def mask(self, array: NDArray[np.uint8], labels: Mapping[int, str]) -> Mask:
        """A label map (D, H, W) on this scan's grid, written as this scan is."""
        return Mask(array, self.affine, labels, self.axes)

    def write(self, path: str | PathLike[str]) -> None:
        """Write pixels and affine as NIfTI (.nii, .nii.gz), in the voxel order of the file, without patient identity.

        Raises ScanError.
        """
        from medfm.scan.volumes import write_nifti

        write_nifti(Path(path), self.data, self.affine, axes=self.axes)

    def __repr__(self) -> str:
        size = " x ".join(str(side) for side in self.data.shape)
        spacing = " x ".join(f"{s:.3g}" for s in self.spacing) + (" mm" if self.spacing_known else " (unknown)")
        return (
            f"Scan({self.modality}, {self.body_part or 'body part unknown'}, {self.plane or 'no plane'}, "
            f"{size} {self.data.dtype}, spacing {spacing}, {self.units}, from {self.source}, {len(self.notes)} notes)"
        )


def _three(spacing: float | tuple[float, ...] | None, shown: str) -> tuple[float, float, float] | None:
    """Complete a caller's spacing to (W, H, D)."""
    if spacing is None:
        return None
    values = [float(v) for v in np.atleast_1d(np.asarray(spacing, dtype=np.float64))]
    if len(values) == 1:
        values *= 3
    if len(values) == 2:
        values.append(1.0)
    if len(values) != 3 or not all(np.isfinite(v) and v > 0 for v in values):
        raise ScanError(f"{shown}: spacing={spacing!r} must be one, two or three positive numbers in mm (W, H, D).")
    return (values[0], values[1], values[2])


def _give_spacing(raw: RawScan, request: Request) -> None:
    """Use the caller's spacing; refuse when the file has its own, because one of the two must be wrong."""
    assert request.spacing is not None
    own = orientation.spacing_of(raw.affine)
    if raw.spacing_known:
        if not np.allclose(own, request.spacing, rtol=1e-3):
            raise ScanError(
                f"{request.shown}: the file has its own spacing {tuple(round(s, 4) for s in own)} mm, but "
                f"spacing={request.spacing} was given. Leave spacing out."
            )
        return
    scale = np.asarray(request.spacing) / np.asarray(own)
    raw.affine = raw.affine @ np.diag([*scale, 1.0])
    raw.spacing_known = True
