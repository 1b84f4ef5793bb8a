"""Scan -> a volume of numbers on a fixed grid of voxels, and labels on that grid back onto the scan's own."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from medfm.config import check_keys
from medfm.errors import ConfigError
from medfm.image.intensity import CT_WINDOWS, Windows, robust_range, windowed

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray
    from torch import Tensor

    from medfm.scan import Scan

__all__ = ["Grid", "GridPrepare", "blank", "mirrors", "onto_scan", "placed", "resample", "resample_labels"]

Three = tuple[float, float, float]


@dataclass(frozen=True)
class GridPrepare:
    """How a dense model reads a scan: voxel size, channels, intensities.

    spacing: mm along D, H, W; 0 leaves an axis as it is, None all. size: pixels of the longer side of H and W, for
    pictures, whose mm are unknown (0: as it is). channels: 1 grey or 3; grey is repeated, colour averaged, as needed.
    intensity: "zscore" of the whole scan (MR); "ct" clips HU to `clip` and takes z-scores with `mean` and `std` of the
    training data (nnU-Net, Isensee et al. 2021); "range" maps `percentiles` to 0..1, 8-bit pictures 0..255 to 0..1;
    "windows" maps HU to 0..1 by `windows` (`medfm.image.intensity.windowed`), and what is not HU as "range".
    displayed: slices as a radiologist sees them (`Scan.slices`), for models of pictures, instead of along the scan's
    own axes; the same for a picture.
    """

    spacing: Three | None = None
    size: int = 0
    channels: int = 1
    intensity: Literal["zscore", "ct", "range", "windows"] = "zscore"
    percentiles: tuple[float, float] = (0.5, 99.5)
    clip: tuple[float, float] = (-1024.0, 3071.0)
    mean: float = 0.0
    std: float = 1.0
    windows: Windows = CT_WINDOWS
    displayed: bool = False

    def __post_init__(self) -> None:
        if self.channels not in (1, 3) or (self.intensity == "windows" and self.channels != 3):
            raise ConfigError(f"found {self.channels} channels with {self.intensity!r}; expected 1 or 3, 3 for windows")

    @property
    def bounded(self) -> bool:
        """Whether what the network reads lies in 0..1."""
        return self.intensity in ("range", "windows")

    @property
    def scales(self) -> list[float]:
        """How much a step in brightness counts in each channel, against the first."""
        several = self.intensity == "windows" and len(self.windows) == self.channels
        widths = [width for _, width in self.windows] if several else [1.0] * self.channels
        return [widths[0] / width for width in widths]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GridPrepare:
        """From what JSON or YAML made of `to_dict`. Raises ConfigError for an unknown key."""
        check_keys("prepare", values, cls.__dataclass_fields__)
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        if "windows" in plain:
            plain["windows"] = tuple((float(level), float(width)) for level, width in plain["windows"])
        return cls(**plain)

    def __call__(self, scan: Scan) -> Grid:
        """The scan on this grid. Voxels keep the scan's type until `Grid.numbers` is asked for a part of them."""
        data, mm = self.seen(scan)
        _, d, h, w = data.shape
        shape = self._shape((d, h, w), mm)
        low, high = self._range(scan)
        array = data if shape == (d, h, w) else resample(data, shape)
        spacing = tuple(s * old / new for s, old, new in zip(mm, (d, h, w), shape, strict=True))
        return Grid(array, (spacing[0], spacing[1], spacing[2]), self, scan.units == "HU", low, high)

    def seen(self, scan: Scan) -> tuple[NDArray, Three]:
        """The voxels of `scan` in the order in which the model reads them, a view (C, D, H, W), and their mm."""
        return scan.slices() if self.displayed else (scan.data, scan.spacing[::-1])

    def _shape(self, old: tuple[int, int, int], mm: Three) -> tuple[int, int, int]:
        if self.size:
            scale = self.size / max(old[1:])
            return old[0], max(1, round(old[1] * scale)), max(1, round(old[2] * scale))
        wanted = [s or own for s, own in zip(self.spacing or mm, mm, strict=True)]
        d, h, w = (max(1, round(n * own / s)) for n, own, s in zip(old, mm, wanted, strict=True))
        return d, h, w

    def _range(self, scan: Scan) -> tuple[float, float]:
        """What is taken as 0 and 1 of the intensities, from the scan's own voxels and not the resampled ones."""
        if self.intensity == "ct":
            return self.mean, self.mean + self.std
        if self.intensity == "zscore":
            mean = float(np.mean(scan.data, dtype=np.float64))
            chunks = (float(np.square(part.astype(np.float32) - mean).sum(dtype=np.float64)) for part in scan.data[0])
            rest = scan.data[1:].astype(np.float32) - mean
            least = 1e-6 * max(1.0, abs(mean))  # of a constant scan, told apart from its mean in single precision
            return mean, mean + max(np.sqrt((sum(chunks) + float(np.square(rest).sum())) / scan.data.size), least)
        if scan.data.dtype == np.uint8:
            return 0.0, 255.0
        return robust_range(scan.data, self.percentiles)


@dataclass(frozen=True)
class Grid:
    """A scan on a model's grid: `array` (C, D, H, W) in the scan's type, `spacing` in mm along D, H, W."""

    array: NDArray
    spacing: Three
    prepare: GridPrepare
    hounsfield: bool
    low: float
    high: float

    @classmethod
    def of(cls, x: Tensor, spacing: Tensor, prepare: GridPrepare) -> Grid:
        """What a training case holds, x (C, D, H, W) and spacing (3,) mm, as a scan would give it: `numbers` of it are
        those of x."""
        d, h, w = spacing.tolist()
        ready = replace(prepare, intensity="zscore", channels=len(x))  # 0 and 1 below leave the numbers alone
        return cls(x.numpy(), (d, h, w), ready, False, 0.0, 1.0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, H, W)."""
        _, d, h, w = self.array.shape
        return d, h, w

    def numbers(self, part: tuple[slice, slice, slice] = (slice(None), slice(None), slice(None))) -> Tensor:
        """What the network reads of a part of the grid: (channels, d, h, w) float32.

        Normalising tile by tile keeps a big volume in memory once, in the two bytes a voxel that it came with.
        """
        import torch

        kind = self.prepare
        x = torch.from_numpy(self.array[(slice(None), *part)].astype(np.float32))
        if kind.intensity == "windows" and self.hounsfield:
            return windowed(x, kind.windows, dim=0)
        if kind.intensity == "ct":
            x = x.clamp_(*kind.clip)
        if len(x) != kind.channels:
            x = x.expand(3, -1, -1, -1) if kind.channels == 3 else x.mean(0, keepdim=True)
        x = (x - self.low) / (self.high - self.low)
        return x.clamp_(0, 1) if kind.bounded else x

    def averaged(self, mm: float) -> tuple[Tensor, list[float]]:
        """`numbers` (channels, d, h, w) on voxels of about `mm` where those are larger than its own, and their mm."""
        import torch.nn.functional as F

        d, h, w = (min(n, max(1, round(n * s / mm))) for n, s in zip(self.shape, self.spacing, strict=True))
        steps = [s * n / new for n, s, new in zip(self.shape, self.spacing, (d, h, w), strict=True)]
        return F.adaptive_avg_pool3d(self.numbers(), (d, h, w)), steps


def onto_scan(labels: NDArray[np.uint8], scan: Scan, prepare: GridPrepare) -> NDArray[np.uint8]:
    """A label map of the grid that `prepare` made of `scan`, on the scan's own voxels: (D, H, W)."""
    done, view = blank(scan, prepare, np.uint8)
    view[:] = resample_labels(labels, (view.shape[0], view.shape[1], view.shape[2]))
    return done


def blank(scan: Scan, prepare: GridPrepare, kind: DTypeLike) -> tuple[NDArray, NDArray]:
    """Zeros on the scan's own voxels, (D, H, W), and a view of them in the order in which the model reads the scan."""
    whole = replace(scan, data=np.zeros((1, *scan.data.shape[1:]), kind))
    return whole.data[0], prepare.seen(whole)[0][0]


def placed(scan: Scan, grid: Grid) -> Scan:
    """What was made of `scan` as a scan of its own: the outer edges of both lie on each other."""
    steps = [old / new for old, new in zip(scan.data.shape[:0:-1], grid.shape[::-1], strict=True)]
    onto = np.diag([*steps, 1.0])
    onto[:3, 3] = [(s - 1) / 2 for s in steps]
    return replace(scan, data=grid.array, affine=scan.affine @ onto)


def mirrors(names: str) -> list[list[int]]:
    """Axes of (B, C, D, H, W) to flip for each mirror image along the axes `names`, say "HW"; the first has none."""
    axes = ["DHW".index(name) + 2 for name in names]
    return [list(chosen) for count in range(len(axes) + 1) for chosen in combinations(axes, count)]


def resample(array: NDArray, shape: tuple[int, int, int]) -> NDArray:
    """(C, D, H, W) -> (C, *shape) float32, linear between voxels, averaged where the new ones are larger.

    The outer edges of both grids lie on each other.
    """
    import torch
    import torch.nn.functional as F

    x = torch.from_numpy(array.astype(np.float32))[None]
    fewer = tuple(min(old, new) for old, new in zip(array.shape[1:], shape, strict=True))
    x = F.adaptive_avg_pool3d(
        x, (fewer[0], fewer[1], fewer[2])
    )  # without averaging, what lies between the new voxels would not be seen
    done: NDArray = F.interpolate(x, shape, mode="trilinear", align_corners=False)[0].numpy()
    return done


def resample_labels(labels: NDArray[np.uint8], shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """(D, H, W) label map -> `shape`: at each voxel the label with the largest linear weight.

    Smoother than the nearest voxel's label. Each class is interpolated alone and in slabs, so that memory grows neither
    with the number of classes nor with float copies of the volume.
    """
    import torch
    import torch.nn.functional as F

    if labels.shape == shape:
        return labels
    result = np.zeros(shape, dtype=np.uint8)
    present = np.flatnonzero(np.bincount(labels.ravel(), minlength=1))
    scale = labels.shape[0] / shape[0]
    for first in range(0, shape[0], 32):
        last = min(first + 32, shape[0])
        centres = (torch.arange(first, last) + 0.5) * scale - 0.5
        centres = centres.clamp(0, labels.shape[0] - 1)
        start, stop = int(centres[0]), min(int(centres[-1]) + 2, labels.shape[0])
        slab = torch.from_numpy(labels[start:stop])
        below = (centres - start).long().clamp(max=len(slab) - 1)
        above, share = (below + 1).clamp(max=len(slab) - 1), (centres - start - below).view(-1, 1, 1)
        best = torch.zeros(last - first, *shape[1:])
        for value in present.tolist():
            flat = F.interpolate((slab == value).float()[:, None], shape[1:], mode="bilinear", align_corners=False)[
                :, 0
            ]
            weight = flat[below] * (1 - share) + flat[above] * share
            better = weight > best
            best[better] = weight[better]
            result[first:last][better.numpy()] = value
    return result
