"""Scan -> the numbers a network reads: one object per model, saved with it, used in training, command line and app."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from medfm.errors import ConfigError
from medfm.image.intensity import GREY_WINDOWS, Windows, robust_range, windowed

if TYPE_CHECKING:
    from torch import Tensor

    from medfm.scan import Scan

__all__ = ["KINDS", "Prepare", "Prepared"]


@dataclass(frozen=True)
class Prepared:
    """What the encoder reads.

    x: (3, D, S, S) float32 in [0, 1], padded with 0 to a square; spacing: (3,) mm of its voxels along D, H, W.
    offset: rows and columns of padding before the picture; scale: prepared pixels per source pixel.
    slab: source slices averaged into one prepared slice; plane: the plane that was read. facts: what the header (or,
    failing that, the picture) tells, in the words of the training questions, say "CT, transverse plane, abdomen".
    """

    x: Tensor
    spacing: Tensor
    offset: tuple[int, int]
    scale: float
    slab: float
    plane: str | None
    facts: str


@dataclass(frozen=True)
class Prepare:
    """Windows, robust scaling, resampling in mm and the token budget.

    size: pixels of the longer side after resampling. max_slices: a volume with more is averaged into this many slabs
    of equal thickness, so that no slice goes unseen. windows: (level, width) of CT in HU, three for the channels or two
    for grey (`medfm.image.intensity.windowed`).
    percentiles: lower and upper, in percent, for intensities without a unit (MR, radiographs); 8-bit pictures are
    taken as they are. field_of_view: mm assumed along the longer side of a picture without spacing. thin: take evenly
    spaced slices as they are instead of averaging slabs, for models that have learned from single slices.
    """

    size: int = 320
    max_slices: int = 32
    windows: Windows = GREY_WINDOWS
    percentiles: tuple[float, float] = (0.5, 99.5)
    field_of_view: float = 350.0
    thin: bool = False

    def __post_init__(self) -> None:
        if self.size % 64 or len(self.windows) not in (2, 3):
            raise ConfigError(
                f"found size {self.size}, {len(self.windows)} windows; expected a multiple of 64 and 2 or 3 windows"
            )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Prepare:
        windows = tuple((float(level), float(width)) for level, width in values.get("windows", cls.windows))
        return cls(**{**values, "windows": windows, "percentiles": tuple(values.get("percentiles", cls.percentiles))})

    def __call__(self, scan: Scan, *, plane: str | None = None) -> Prepared:
        """Read `scan` in its acquired plane, or in `plane`, in radiological display order."""
        import torch
        from torch.nn import functional as F

        array, spacing = scan.slices(plane)
        channels, slices, rows, columns = array.shape
        scale = self.size / max(rows, columns)
        height, width = max(1, round(rows * scale)), max(1, round(columns * scale))
        top, left = (self.size - height) // 2, (self.size - width) // 2
        depth = min(slices, self.max_slices)
        if self.thin:
            array = array[:, np.linspace(0, slices - 1, depth).round().astype(int)]
        x = torch.zeros(3, depth, self.size, self.size)
        low, high = self._range(scan, array)
        edges = np.linspace(0, array.shape[1], depth + 1)
        for index in range(depth):  # slab by slab, so memory grows with the slab and not with the volume
            first, last = int(np.floor(edges[index])), int(np.ceil(edges[index + 1]))
            slab = torch.from_numpy(np.array(array[:, first:last], dtype=np.float32, order="C")).transpose(0, 1)
            slab = self._channels(slab, scan, low, high, channels)
            slab = F.interpolate(slab, (height, width), mode="bilinear", antialias=scale < 1, align_corners=False)
            weight = torch.ones(last - first)  # a source slice on the border of two slabs is shared between them
            weight[0] = first + 1 - edges[index]
            weight[-1] -= last - edges[index + 1]
            x[:, index, top : top + height, left : left + width] = torch.einsum(
                "n,nchw->chw", weight / weight.sum(), slab
            )
        if not scan.spacing_known:
            spacing = (spacing[0], self.field_of_view / max(rows, columns), self.field_of_view / max(rows, columns))
        mm = torch.tensor([spacing[0] * slices / depth, spacing[1] / scale, spacing[2] / scale], dtype=torch.float32)
        shown = plane or scan.best_plane
        return Prepared(x.clamp_(0, 1), mm, (top, left), scale, slices / depth, shown, _facts(scan, shown))

    def _range(self, scan: Scan, array: np.ndarray) -> tuple[float, float]:
        if array.dtype == np.uint8:
            return 0.0, 255.0
        if scan.units == "HU":
            return 0.0, 1.0
        return robust_range(array, self.percentiles)

    def _channels(self, slab: Tensor, scan: Scan, low: float, high: float, channels: int) -> Tensor:
        """(N, C, H, W) in the scan's units -> (N, 3, H, W) in [0, 1]."""

        if scan.units == "HU":
            return windowed(slab, self.windows, dim=1)
        slab = ((slab - low) / (high - low)).clamp_(0, 1)
        return slab if channels == 3 else slab.expand(-1, 3, -1, -1)


# a DICOM modality in the words of the training questions
KINDS = {"CT": "CT", "MR": "MRI", "CR": "X-Ray", "DX": "X-Ray", "RG": "X-Ray", "US": "Ultrasound", "PT": "PET"}
_PARTS = {"head", "neck", "chest", "abdomen", "pelvis"}


def _facts(scan: Scan, plane: str | None) -> str:
    shown = "transverse" if plane == "axial" else plane
    part = scan.body_part if scan.body_part in _PARTS else None
    known = [KINDS.get(scan.modality), f"{shown} plane" if shown else None, part]
    return ", ".join(k for k in known if k)
