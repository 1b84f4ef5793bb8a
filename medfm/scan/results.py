"""What comes back from a question about a scan: boxes, masks and answers, each placed in the scan's own space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfm.errors import ShapeError

__all__ = ["Answer", "Box", "Mask", "Scores"]


@dataclass(frozen=True)
class Box:
    """An axis-aligned box.

    `low` and `high` are opposite corners with low <= high: (x, y, z) in RAS mm for a scan with `frame="patient"`, or
    (column, row) in image pixels, upper left and lower right, for `frame="image"`. `slice` is the slice, of those that
    `Scan.slices` gives, in which it is clearest. `score` is between 0 and 1. Raises ShapeError for bad corners.
    """

    label: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    score: float | None = None
    slice: int | None = None

    def __post_init__(self) -> None:
        if len(self.low) != len(self.high) or len(self.low) not in (2, 3):
            raise ShapeError(f"A box has two corners of 2 or 3 numbers each; got {len(self.low)} and {len(self.high)}.")
        if any(low > high for low, high in zip(self.low, self.high, strict=True)):
            raise ShapeError(f"Box corners must satisfy low <= high on every axis; got {self.low} and {self.high}.")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "kind": "box",
            "label": self.label,
            "low": [float(v) for v in self.low],
            "high": [float(v) for v in self.high],
            "score": None if self.score is None else float(self.score),
            "slice": self.slice,
        }


@dataclass(frozen=True, eq=False)
class Mask:
    """A label map on a scan's grid.

    `array` is (D, H, W) uint8, 0 = background; `affine` is the scan's 4x4 affine (index (w, h, d) to RAS mm); `labels`
    names the values; `axes` are the scan's, for the order of voxels in files. Raises ShapeError when the array is not
    three-dimensional uint8 or the affine not 4x4.
    """

    array: NDArray[np.uint8]
    affine: NDArray[np.float64]
    labels: Mapping[int, str] = field(default_factory=dict)
    axes: str = "RAS"

    def __post_init__(self) -> None:
        if self.array.ndim != 3 or self.array.dtype != np.uint8:
            raise ShapeError(f"A mask is a (D, H, W) uint8 array; got {self.array.dtype} of shape {self.array.shape}.")
        if self.affine.shape != (4, 4):
            raise ShapeError(f"A mask needs a 4x4 affine; got shape {self.affine.shape}.")

    def __repr__(self) -> str:
        """What a notebook shows: an answer or a report with its evidence stays readable."""
        size = " x ".join(str(side) for side in self.array.shape)
        found = [f"{a['name']} {a['ml']:.1f} ml" for a in self.to_dict()["labels"].values() if a["voxels"]]
        more = f" and {len(found) - 8} more" if len(found) > 8 else ""
        return f"Mask({size}: {', '.join(found[:8]) or 'nothing found'}{more})"

    @property
    def voxel_volume(self) -> float:
        """Volume of one voxel in mm³."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def write(self, path: str | PathLike[str]) -> None:
        """Write the label map as NIfTI (.nii or .nii.gz), voxel for voxel as the scan's file has them.

        Raises ScanError for another ending.
        """
        from medfm.scan.volumes import write_nifti

        write_nifti(Path(path), self.array[None], self.affine, axes=self.axes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types: size, place, and for each label its name, voxel count and millilitres."""
        counts = np.bincount(self.array.ravel(), minlength=256)
        found = [int(value) for value in np.flatnonzero(counts) if value]
        return {
            "kind": "mask",
            "shape": list(self.array.shape),
            "affine": self.affine.tolist(),
            "labels": {
                str(value): {
                    "name": self.labels.get(value, str(value)),
                    "voxels": int(counts[value]),
                    "ml": float(counts[value]) * self.voxel_volume / 1000.0,
                }
                for value in sorted({*found, *self.labels})
            },
        }


@dataclass(frozen=True)
class Scores:
    """How probable each label is for the whole scan.

    `thresholds`: label -> {"sensitive", "specific"}: the probabilities from which it is called present when few may be
    missed, and when few may be called wrongly; empty where a model has none.
    """

    probabilities: Mapping[str, float]
    thresholds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def best(self) -> str:
        """The likeliest label."""
        return max(self.probabilities, key=lambda name: self.probabilities[name])

    def present(self, point: str) -> dict[str, bool]:
        """Which labels are called present at an operating point, "sensitive" or "specific"."""
        return {n: self.probabilities[n] >= t[point] for n, t in self.thresholds.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "kind": "scores",
            "probabilities": {name: float(p) for name, p in self.probabilities.items()},
            "best": self.best,
            "present": {point: self.present(point) for point in ("sensitive", "specific")} if self.thresholds else {},
        }


@dataclass(frozen=True)
class Answer:
    """One answer: its text, how sure the model is (0 to 1), and where in the scan it comes from.

    When `abstained` is true, `reason` says why, and `text` is only the best guess: show it as such or not at all; it is
    empty where a guess would mislead. Without a confidence, `reason` says where else the answer comes from, such as the
    header.
    """

    text: str
    confidence: float | None = None
    abstained: bool = False
    evidence: tuple[Box | Mask, ...] = ()
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "text": self.text,
            "confidence": None if self.confidence is None else float(self.confidence),
            "abstained": self.abstained,
            "evidence": [item.to_dict() for item in self.evidence],
            "reason": self.reason,
        }
