"""What a recipe says of an acquisition: from a picture to the data a scanner would have measured of it."""

from __future__ import annotations

import hashlib
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from medfm.errors import ConfigError
from medfm.physics.ct import Fan, Projection, Window, from_hu, measured
from medfm.physics.degrade import Blur, Coarser, Itself, moved, ringed
from medfm.physics.linear import Linear
from medfm.physics.mri import Cartesian, Radial, Sampling, birdcage, sampling_mask, smooth_phase

__all__ = ["CTAcquisition", "Degraded", "MRAcquisition", "Measured"]


_KEPT = 400  # noiseless pictures, 0.2 MB each at 128 x 128 pixels and 180 views


class Measured(NamedTuple):
    """x: the truth (B, C, D, H, W); y: its data; operator: how y came from x."""

    x: Tensor
    y: Tensor
    operator: Linear


class MRAcquisition:
    """Pictures in [0, 1], given a smooth phase, coils and noise, sampled in part.

    Args:
        kind: see `sampling_mask`; "radial" is the non-uniform transform with `spokes`.
        acceleration, centre: of the mask, which is drawn anew each time.
        coils: of a simulated birdcage, 0 for one picture. separate: the truth is one picture a coil, without maps
            (DeepcomplexMRI); else one picture for all, and the maps are known (SENSE).
        phase: strength of the phase. noise: deviation of the real and of the imaginary part, in units of the picture.
        motion: voxels by which the patient moves while the last third is read.
        ndim: 3 transforms volumes; rows and slices are then sampled alike by "points" of the D x H plane.
    """

    complex = True

    def __init__(
        self, *, kind: Sampling | Literal["radial"] = "lines", acceleration: float = 4.0, centre: float = 0.08,
        spokes: int = 40, coils: int = 0, separate: bool = False, phase: float = 0.5, noise: float = 0.0,
        motion: float = 0.0, ndim: int = 2,
    ) -> None:  # fmt: skip
        if kind == "radial" and (ndim == 3 or motion):
            raise ConfigError("radial sampling is of slices, without motion; use kind: points for volumes")
        self.kind, self.acceleration, self.centre, self.spokes = kind, acceleration, centre, spokes
        self.coils, self.separate, self.phase, self.noise, self.motion = coils, separate, phase, noise, motion
        self.ndim = ndim
        self.channels = coils if separate else 1

    def __call__(self, image: Tensor, generator: torch.Generator, *, pixel: float = 1.0) -> Measured:
        """image: (B, 1, D, H, W). `pixel` is taken and not used: these acquisitions count voxels."""
        b, _, d, h, w = image.shape
        phases = [smooth_phase((h, w), strength=self.phase, generator=generator) for _ in range(b)]
        x = image * torch.stack(phases)[:, None, None]
        maps = birdcage(self.coils, (h, w))[None, :, None] if self.coils else None
        if maps is not None and self.separate:
            x, maps = maps * x, None
        if self.kind == "radial":
            operator: Linear = Radial((h, w), spokes=self.spokes, maps=maps)
            y = operator.A(x)
            return Measured(x, y + self._noise(y, generator), operator)
        masks = torch.stack([self._mask((d, h, w), generator) for _ in range(b)])[:, None]
        operator = Cartesian(masks, maps, ndim=self.ndim)
        y = operator.A(x)
        if self.motion:
            y = moved(y, voxels=self.motion, share=0.35, generator=generator)
        return Measured(x, (y + self._noise(y, generator)) * masks, operator)

    def _mask(self, size: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        d, h, w = size
        assert self.kind != "radial"
        plane = (d, h) if self.ndim == 3 else (h, w)
        mask = sampling_mask(
            plane, kind=self.kind, acceleration=self.acceleration, centre=self.centre, generator=generator
        )
        return mask[:, :, None].expand(d, h, w) if self.ndim == 3 else mask[None].expand(d, h, w)

    def _noise(self, y: Tensor, generator: torch.Generator) -> Tensor:
        parts = torch.randn(*y.shape, 2, generator=generator) * self.noise
        return torch.view_as_complex(parts)


class CTAcquisition:
    """Slices in HU, projected, with the noise of a dose.

    Args:
        views, fan, window: see `Projection`. photons: a ray through air; 1e5 is a normal dose, 5e3 a low one at 3 mm.
        electronic: deviation in photons. rings: deviation of the cells' calibration.
        truth: "scan", or "dose": what filtered back-projection makes of the same rays without noise, so that a network
            learns to take noise away and not to sharpen what these few pixels blur.
    """

    complex = False
    channels = 1
    ndim = 2

    def __init__(
        self, *, views: int = 180, photons: float = 1e4, electronic: float = 5.0, rings: float = 0.0,
        fan: list[float] | None = None, window: Window = "ramp", truth: Literal["scan", "dose"] = "scan",
    ) -> None:  # fmt: skip
        self.truth = truth
        self.views, self.photons, self.electronic, self.rings, self.window = views, photons, electronic, rings, window
        self.fan: Fan | None = None if fan is None else (fan[0], fan[1])
        self._known: dict[tuple[float, bytes], tuple[Tensor, Tensor]] = {}

    def __call__(self, image: Tensor, generator: torch.Generator, *, pixel: float = 1.0, dose: float = 1.0) -> Measured:
        """image: (B, 1, D, H, W) HU; pixel: mm along H and W; dose: of so many times the photons."""
        x = from_hu(image)
        operator = Projection((x.shape[3], x.shape[4]), pixel=pixel, views=self.views, fan=self.fan, window=self.window)
        known = [self._noiseless(operator, one) for one in x.split(1)]
        lines, truth = (torch.cat(parts) for parts in zip(*known, strict=True))
        if self.rings:
            lines = ringed(lines, deviation=self.rings, generator=generator)
        y = measured(lines, photons=self.photons * dose, electronic=self.electronic, generator=generator)
        return Measured(truth, y, operator)

    def _noiseless(self, operator: Projection, x: Tensor) -> tuple[Tensor, Tensor]:
        """Line integrals and truth of one picture, kept of the last few hundred: in training only the noise is new, and
        they take three fifths of a measurement's time."""
        key = operator.pixel, hashlib.blake2b(x.cpu().numpy().tobytes()).digest()
        if key not in self._known:
            lines = operator.A(x)
            self._known[key] = lines, operator.start(lines) if self.truth == "dose" else x
            if len(self._known) > _KEPT:
                del self._known[next(iter(self._known))]
        return self._known[key]


class Degraded:
    """Pictures in [0, 1], blurred or coarser, and noisy.

    Args:
        blur: deviation in voxels along D, H, W. factor: of the voxels' size along D, H, W. noise: deviation.
    """

    complex = False
    channels = 1

    def __init__(
        self, *, blur: list[float] | None = None, factor: list[int] | None = None, noise: float = 0.0, ndim: int = 2
    ) -> None:
        if blur and factor:
            raise ConfigError("give blur or factor: a coarser voxel already averages over what it covers")
        self.noise, self.ndim = noise, ndim
        self.operator: Linear = Itself()
        if blur:
            self.operator = Blur((blur[0], blur[1], blur[2]))
        if factor:
            self.operator = Coarser((factor[0], factor[1], factor[2]))

    def __call__(self, image: Tensor, generator: torch.Generator, *, pixel: float = 1.0) -> Measured:
        """image: (B, 1, D, H, W). `pixel` is taken and not used: these acquisitions count voxels."""
        if isinstance(self.operator, Coarser):
            d, h, w = (n // f * f for n, f in zip(image.shape[2:], self.operator.factor, strict=True))
            image = image[:, :, :d, :h, :w]
        y = self.operator.A(image)
        return Measured(image, y + self.noise * torch.randn(y.shape, generator=generator), self.operator)
