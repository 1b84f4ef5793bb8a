"""A directional, undecimated transform of slices: octaves, each divided into directions, as one tight frame."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["band_count", "directional_bands", "from_bands"]

_MARGIN = 16  # pixels mirrored around a slice, so that its opposite edges do not meet


def band_count(directions: tuple[int, ...]) -> int:
    """Bands of a transform: its directions on each octave, and what is left below."""
    return sum(directions) + 1


def directional_bands(x: Tensor, directions: tuple[int, ...]) -> Tensor:
    """(N, H, W) -> (N, K, H + 2m, W + 2m): `directions` of the finest octave first, the coarse rest last.

    Windows in the Fourier domain whose squares add up to 1, so `from_bands` gives x back. The bands are those of the
    non-subsampled contourlet transform (da Cunha et al., IEEE TIP 2006), 15 with directions (8, 4, 2) as in WavResNet
    (Kang et al., IEEE TMI 2018); its fan filters are replaced by these windows.
    """
    edge = min(_MARGIN, x.shape[-2] - 1, x.shape[-1] - 1)
    padded = F.pad(x[:, None], [edge] * 4, mode="reflect")
    windows = _windows((padded.shape[-2], padded.shape[-1]), directions).to(x.device)
    return torch.fft.ifft2(torch.fft.fft2(padded) * windows).real


def from_bands(bands: Tensor, directions: tuple[int, ...], size: tuple[int, int]) -> Tensor:
    """The inverse, and the adjoint but for the mirrored edges: (N, K, ...) -> (N, H, W)."""
    windows = _windows((bands.shape[-2], bands.shape[-1]), directions).to(bands.device)
    x = torch.fft.ifft2((torch.fft.fft2(bands) * windows).sum(1)).real
    top, left = (x.shape[-2] - size[0]) // 2, (x.shape[-1] - size[1]) // 2
    return x[:, top : top + size[0], left : left + size[1]]


@lru_cache(maxsize=8)
def _windows(size: tuple[int, int], directions: tuple[int, ...]) -> Tensor:
    """(K, H, W), their squares adding up to 1."""
    fh, fw = torch.meshgrid(torch.fft.fftfreq(size[0]), torch.fft.fftfreq(size[1]), indexing="ij")
    radius, angle = (fh.square() + fw.square()).sqrt(), torch.atan2(fh, fw).remainder(math.pi)
    windows, above = [], torch.ones(size)
    for octave, count in enumerate(directions):
        below = _low(radius, 0.25 / 2**octave)
        ring = (above.square() - below.square()).clamp(min=0).sqrt()
        for number in range(count):
            far = (angle - number * math.pi / count + math.pi / 2).remainder(math.pi) - math.pi / 2
            fan = torch.cos((far.abs() * count / math.pi).clamp(max=1) * math.pi / 2)
            windows.append(ring * (fan if count > 1 else torch.ones_like(fan)))
        above = below
    power = torch.stack([*windows, above]).square()
    mirrored = power.flip((1, 2)).roll(
        (1, 1), (1, 2)
    )  # at f and -f alike, so that bands are real: the Nyquist row is not
    power = (power + mirrored) / 2
    return (power / power.sum(0)).sqrt()


def _low(radius: Tensor, cut: float) -> Tensor:
    """1 below 2/3 of `cut`, 0 above 4/3 of it (Meyer)."""
    share = ((radius / cut - 2 / 3) * 1.5).clamp(0, 1)
    smooth = share**4 * (35 - 84 * share + 70 * share**2 - 20 * share**3)
    return torch.cos(smooth * math.pi / 2)
