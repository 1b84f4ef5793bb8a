"""Magnetic resonance: Cartesian and radial sampling of k-space, one coil or several, pictures and volumes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from medfm.errors import ShapeError
from medfm.physics.linear import Linear

__all__ = [
    "Cartesian",
    "Radial",
    "Sampling",
    "birdcage",
    "coil_maps",
    "fourier",
    "inverse_fourier",
    "sampling_mask",
    "smooth_phase",
]

Sampling = Literal["lines", "equispaced", "points", "spokes"]


def fourier(x: Tensor, ndim: int) -> Tensor:
    """Centred orthonormal Fourier transform of the last `ndim` axes."""
    axes = tuple(range(-ndim, 0))
    return torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(x, axes), dim=axes, norm="ortho"), axes)


def inverse_fourier(k: Tensor, ndim: int) -> Tensor:
    """The inverse of `fourier`, which is also its adjoint."""
    axes = tuple(range(-ndim, 0))
    return torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(k, axes), dim=axes, norm="ortho"), axes)


class Cartesian(Linear):
    """Samples on the grid of k-space: y = mask * F(maps * x).

    Args:
        mask: (B or 1, 1, D, H, W) or broadcastable, true where k-space was sampled.
        maps: (B or 1, N, D, H, W) complex sensitivities; x then has one channel. Without them x has one channel a coil.
        ndim: 2 transforms slice by slice, 3 the volume.
    """

    def __init__(self, mask: Tensor, maps: Tensor | None = None, *, ndim: int = 2) -> None:
        self.mask, self.maps, self.ndim = mask.bool(), maps, ndim

    def A(self, x: Tensor) -> Tensor:
        """(B, 1, D, H, W) -> (B, N, D, H, W), zero where nothing was sampled."""
        if self.maps is not None:
            if x.shape[1] != 1:
                raise ShapeError(f"found {x.shape[1]} channels beside coil maps, expected one picture for all coils")
            x = self.maps * x
        return fourier(x, self.ndim) * self.mask

    def A_adjoint(self, y: Tensor) -> Tensor:
        x = inverse_fourier(y * self.mask, self.ndim)
        return x if self.maps is None else (self.maps.conj() * x).sum(1, keepdim=True)

    def to(self, device: torch.device) -> Cartesian:
        return Cartesian(
            self.mask.to(device), None if self.maps is None else self.maps.to(device), ndim=self.ndim
        )  # fmt: skip

    def consistent(self, x: Tensor, y: Tensor, *, weight: float | Tensor | None = None, steps: int = 10) -> Tensor:
        """In closed form without coil maps (Schlemper et al. 2018): a sampled k becomes (k + weight y) / (1 + weight).

        No weight: it becomes y itself, whatever the picture said.
        """
        if self.maps is not None:
            return super().consistent(x, y, weight=weight, steps=steps)
        k = fourier(x, self.ndim)
        kept = y if weight is None else (k + weight * y) / (1 + weight)
        return inverse_fourier(torch.where(self.mask, kept, k), self.ndim)


class Radial(Linear):
    """Spokes through the centre of k-space, each slice alike: a non-uniform Fourier transform, by sigpy.

    Args:
        size: (H, W). spokes: over 180 degrees, at the golden angle. points: samples of a spoke (default: twice the
            longer side). maps: as in `Cartesian`.
    """

    def __init__(
        self, size: tuple[int, int], *, spokes: int, points: int | None = None, maps: Tensor | None = None
    ) -> None:
        self.size, self.maps = size, maps
        count = points or 2 * max(size)
        angles = np.arange(spokes) * np.deg2rad(111.246117975)
        along = (np.arange(count) - count // 2) / count
        directions = np.stack([np.sin(angles), np.cos(angles)], -1) * np.array(size)
        self.coordinates = (along[None, :, None] * directions[:, None]).astype(np.float32)
        self.density = torch.from_numpy(np.abs(along).astype(np.float32)).clamp(min=0.25 / count)

    def A(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, N, D, spokes, points)."""
        if self.maps is not None:
            x = self.maps * x
        result: Tensor = _NonUniform.apply(x, self.coordinates, self.size, False)
        return result

    def A_adjoint(self, y: Tensor) -> Tensor:
        x: Tensor = _NonUniform.apply(y, self.coordinates, self.size, True)
        return x if self.maps is None else (self.maps.conj() * x).sum(1, keepdim=True)

    def start(self, y: Tensor) -> Tensor:
        """Gridding: samples weighted by the area of k-space that each stands for."""
        scale = np.pi * self.size[0] * self.size[1] / (2 * self.coordinates.shape[0])
        weights = self.density * (2 * scale / self.coordinates.shape[1])
        return self.A_adjoint(y * weights)


class _NonUniform(torch.autograd.Function):
    """sigpy's transform and its adjoint, each the other's gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, coordinates: np.ndarray, size: tuple[int, int], back: bool) -> Tensor:
        import sigpy

        ctx.about = coordinates, size, back
        array = x.detach().numpy()
        if back:
            done = sigpy.nufft_adjoint(array, coordinates, oshape=(*array.shape[:3], *size))
        else:
            done = sigpy.nufft(array, coordinates)
        return torch.from_numpy(np.ascontiguousarray(done)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        coordinates, size, back = ctx.about
        return _NonUniform.apply(gradients[0], coordinates, size, not back), None, None, None


def sampling_mask(
    size: tuple[int, int], *, kind: Sampling = "lines", acceleration: float = 4.0, centre: float = 0.08,
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """(H, W) bool with about 1 / `acceleration` of k-space sampled, the middle `centre` of it (of each axis) in full.

    lines: whole rows, at random, denser in the middle. equispaced: every n-th row, whose aliases SENSE and GRAPPA
    unfold. points: single samples at random, denser in the middle (as in 3D, across the readout). spokes: rows and
    columns nearest to spokes at the golden angle (pseudo-radial). Raises ValueError for what leaves nothing to sample.
    """
    rows, columns = size
    if acceleration < 1 or not 0 <= centre < 1:
        raise ValueError(f"acceleration {acceleration}, centre {centre}; expected at least 1, and a share below 1")
    far = (torch.arange(rows) - rows // 2).abs() / (rows / 2)
    middle = far <= centre
    if kind == "equispaced":
        step, first = round(acceleration), rows // 2 % round(acceleration)
        chosen = (torch.arange(rows) % step == first) | middle
        return chosen[:, None].expand(rows, columns).clone()
    if kind == "spokes":
        return _spokes(rows, columns, acceleration)
    if kind == "lines":
        chosen = _denser(far, middle, rows / acceleration, generator)
        return chosen[:, None].expand(rows, columns).clone()
    across = (torch.arange(columns) - columns // 2).abs() / (columns / 2)
    distance = (far[:, None].square() + across[None].square()).sqrt()
    return _denser(distance, distance <= centre, rows * columns / acceleration, generator)


def _denser(far: Tensor, middle: Tensor, wanted: float, generator: torch.Generator | None) -> Tensor:
    """The middle, and of the rest about as many as are `wanted` in all, with odds that fall with the distance."""
    odds = (1 - far.clamp(max=1)).pow(3) + 0.02
    odds[middle] = 0
    left = max(0.0, wanted - float(middle.sum()))
    scale = left / float(odds.sum())
    for _ in range(10):  # odds above 1 give their surplus to the others
        scale *= left / max(float((odds * scale).clamp(max=1).sum()), 1e-9)
    return middle | (torch.rand(far.shape, generator=generator) < odds * scale)


def _spokes(rows: int, columns: int, acceleration: float) -> Tensor:
    mask = torch.zeros(rows, columns, dtype=torch.bool)
    along = torch.linspace(-1, 1, 2 * max(rows, columns))
    number = 0
    while mask.float().mean() < 1 / acceleration:
        angle = torch.tensor(number * 111.246117975).deg2rad()
        h = ((along * angle.sin() + 1) / 2 * (rows - 1)).round().long()
        w = ((along * angle.cos() + 1) / 2 * (columns - 1)).round().long()
        mask[h, w] = True
        number += 1
    return mask


@lru_cache(maxsize=8)
def birdcage(coils: int, size: tuple[int, int]) -> Tensor:
    """(coils, H, W) complex sensitivities of a simulated birdcage array, sums of squares 1, by sigpy."""
    from sigpy.mri import birdcage_maps

    maps = torch.from_numpy(birdcage_maps((coils, *size), r=1.2).astype(np.complex64))
    return maps / maps.abs().square().sum(0, keepdim=True).sqrt()


def coil_maps(kspace: Tensor, *, calibration: int = 24, crop: float = 0.0) -> Tensor:
    """(N, D, H, W) sensitivities from the densely sampled middle of (N, D, H, W) k-space, by ESPIRiT (sigpy).

    Source: Uecker et al., MRM 71:990, 2014. Slice by slice. calibration: samples along each axis. crop: maps are 0
    where the eigenvalue is below it (outside the body).
    """
    from sigpy.mri.app import EspiritCalib

    slices = []
    for index in range(kspace.shape[1]):
        app = EspiritCalib(
            kspace[:, index].numpy(), calib_width=calibration, crop=crop, max_iter=30, show_pbar=False
        )  # fmt: skip
        slices.append(torch.from_numpy(np.asarray(app.run())))
    return torch.stack(slices, 1).to(kspace.dtype)


def smooth_phase(size: tuple[int, int], *, strength: float, generator: torch.Generator) -> Tensor:
    """(H, W) complex of modulus 1, its phase (radians, up to about `strength` times pi) slowly varying."""
    coarse = torch.randn(1, 1, 4, 4, generator=generator)
    phase = torch.nn.functional.interpolate(coarse, size, mode="bicubic", align_corners=True)[0, 0]
    return torch.polar(torch.ones(size), phase * strength * torch.pi / 2)
