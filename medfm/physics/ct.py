"""Computed tomography: parallel and fan-beam projections of slices, dose, and filtered back-projection with windows."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from medfm.nn.slices import fold, unfold
from medfm.physics.linear import Linear

__all__ = ["WATER", "Fan", "Projection", "Window", "from_hu", "measured", "to_hu"]

WATER = 0.0192  # attenuation of water in 1/mm at about 70 keV
Window = Literal["ramp", "shepp-logan", "cosine", "hann"]
Fan = tuple[float, float]


def from_hu(hu: Tensor) -> Tensor:
    """HU -> attenuation in units of water: 0 for air, 1 for water; below air there is nothing."""
    return (hu / 1000 + 1).clamp(min=0)


def to_hu(x: Tensor) -> Tensor:
    """Attenuation in units of water -> HU."""
    return (x - 1) * 1000


def measured(lines: Tensor, *, photons: float, electronic: float = 0.0, generator: torch.Generator) -> Tensor:
    """Line integrals as a detector reads them: Poisson counts of `photons` a ray in air, and electronic noise.

    electronic: standard deviation of that noise, in photons. Fewer counts than one are taken as one.
    """
    counts = torch.poisson(photons * torch.exp(-lines), generator=generator)
    counts = counts + electronic * torch.randn(lines.shape, generator=generator)
    return torch.log(photons / counts.clamp(min=1.0))


class Projection(Linear):
    """Line integrals through slices, by deepinv: x in units of water (`from_hu`), y without a unit.

    Args:
        size: (H, W) of the slices; they are padded to a square with air. pixel: mm.
        views: number of angles, over 180 degrees (fan beam: 360), or the angles in degrees.
        fan: distances in mm from the source to the axis and from the axis to a flat detector; None: parallel beam.
        window: what tames the ramp in `start`.
    """

    def __init__(
        self, size: tuple[int, int], *, pixel: float = 1.0, views: int | list[float] = 180, fan: Fan | None = None,
        window: Window = "ramp",
    ) -> None:  # fmt: skip
        self.size, self.pixel, self.fan, self.window = size, pixel, fan, window
        span = 360.0 if fan else 180.0
        angles = [span * i / views for i in range(views)] if isinstance(views, int) else list(views)
        self.angles = tuple(angles)
        self.side = max(size)
        self.scale = WATER * pixel

    def A(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C, D, cells, views)."""
        tomography = _tomography(self.side, self.angles, self.pixel, self.fan)
        y = torch.cat([tomography.A(part) for part in self._square(fold(x)).split(1)])  # memory of one slice
        return unfold(y * self._lengths(y), len(x))

    def A_adjoint(self, y: Tensor) -> Tensor:
        y, batch = fold(y), len(y)
        tomography = _tomography(self.side, self.angles, self.pixel, self.fan)
        x = torch.cat([tomography.A_adjoint(part) for part in (y * self._lengths(y)).split(1)])
        return unfold(self._cropped(x), batch)

    def start(self, y: Tensor) -> Tensor:
        """Filtered back-projection; fan-beam data are first re-sorted to parallel rays."""
        lines = fold(y)
        angles = self.angles
        if self.fan is not None:
            lines, angles = self._parallel(lines)
        flat = _tomography(self.side, angles, self.pixel, None)
        filtered = _filter(self.window)(lines)
        x = torch.cat([flat.iradon(part, filtering=False) for part in filtered.split(1)]) / self.scale
        return unfold(self._cropped(x), len(y))

    def _parallel(self, y: Tensor) -> tuple[Tensor, tuple[float, ...]]:
        """(N, C, cells, views) of a full turn of the fan -> as many views of half a turn of parallel rays.

        A ray at distance s from the axis in direction theta belongs to the view theta + gamma, sin gamma = s / source.
        Views of a fan are counted from the rays, those of parallel beams from the detector, hence the quarter turn.
        """
        assert self.fan is not None
        source, detector = self.fan
        views, cells = len(self.angles), int(-(-self.side * 2**0.5 // 1))
        theta = torch.arange(views) * (torch.pi / views)
        s = (torch.arange(cells) - (cells - 1) / 2) * self.pixel
        gamma = torch.asin((s / source).clamp(-1, 1))
        beta = (theta[None] + gamma[:, None]) / (2 * torch.pi) + 0.25
        along = (source + detector) * torch.tan(gamma) / self._cell  # in cells from the middle
        rows = along[:, None].expand(-1, views) * 2 / (y.shape[2] - 1)
        columns = beta.remainder(1) * views
        around = torch.cat([y, y[..., :1]], -1)  # the turn closes on itself
        grid = torch.stack([columns * 2 / views - 1, rows], -1)
        sampled = F.grid_sample(around, grid[None].expand(len(y), -1, -1, -1), align_corners=True)
        return sampled, tuple((theta * 180 / torch.pi).tolist())

    def _lengths(self, y: Tensor) -> Tensor:
        """Attenuation of one step: deepinv steps a pixel along the axis of the fan, oblique rays go further."""
        if self.fan is None:
            return torch.tensor(self.scale)
        along = (torch.arange(y.shape[2]) - (y.shape[2] - 1) / 2) * self._cell / sum(self.fan)
        return (self.scale * (1 + along.square()).sqrt())[:, None]

    @property
    def _cell(self) -> float:
        """mm of a detector cell: a pixel as it is magnified onto the detector."""
        assert self.fan is not None
        return self.pixel * (self.fan[0] + self.fan[1]) / self.fan[0]

    def _square(self, x: Tensor) -> Tensor:
        h, w = self.size
        top, left = (self.side - h) // 2, (self.side - w) // 2
        return F.pad(x, (left, self.side - w - left, top, self.side - h - top))

    def _cropped(self, x: Tensor) -> Tensor:
        h, w = self.size
        top, left = (self.side - h) // 2, (self.side - w) // 2
        return x[..., top : top + h, left : left + w]


@lru_cache(maxsize=4)
def _tomography(side: int, angles: tuple[float, ...], pixel: float, fan: Fan | None) -> Any:
    """deepinv's operator, in pixels; its tables of rays are large, so the last few are kept."""
    from deepinv.physics import Tomography

    about = None
    if fan is not None:
        source, detector = fan
        padded = int(-(-side * 2**0.5 // 1))
        about = {
            "pixel_spacing": pixel * (padded - 1) / padded,  # its grid goes from the middle of a pixel to another's
            "source_radius": source, "detector_radius": detector,
            "n_detector_pixels": int(side * 2**0.5 * 1.1) | 1,
            "detector_spacing": pixel * (source + detector) / source,
        }  # fmt: skip
    return Tomography(
        torch.tensor(angles), side, circle=False, normalize=False, fan_beam=fan is not None, fan_parameters=about
    )


@lru_cache(maxsize=4)
def _filter(window: Window) -> Any:
    """deepinv's ramp filter under a window that falls towards the highest frequency."""
    from deepinv.physics.functional.radon import AbstractFilter

    class Windowed(AbstractFilter):
        def create_filter(self, f: Tensor) -> Tensor:
            w = torch.linspace(0, 0.5, f.shape[0], device=f.device)  # cycles a cell
            shape = {
                "ramp": torch.ones_like(w),
                "shepp-logan": torch.sinc(w),
                "cosine": torch.cos(torch.pi * w),
                "hann": 0.5 + 0.5 * torch.cos(2 * torch.pi * w),
            }[window]
            return f * shape.to(f.dtype)

    return Windowed()
