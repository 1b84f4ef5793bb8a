"""What else spoils pictures: blur, larger voxels, noise, rings of bad detector cells, motion between the lines."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from medfm.physics.linear import Linear

__all__ = ["Blur", "Coarser", "Itself", "moved", "ringed"]

Triple = tuple[int, int, int]


class Itself(Linear):
    """y = x: a picture that is only noisy."""

    def A(self, x: Tensor) -> Tensor:
        return x

    def A_adjoint(self, y: Tensor) -> Tensor:
        return y


class Blur(Linear):
    """Gaussian blur by `deviation` voxels along D, H, W (0: none), edges joined; its own adjoint."""

    def __init__(self, deviation: tuple[float, float, float]) -> None:
        self.deviation = deviation

    def A(self, x: Tensor) -> Tensor:
        for axis, width in zip((-3, -2, -1), self.deviation, strict=True):
            f = torch.fft.rfftfreq(x.shape[axis], device=x.device)
            fall = torch.exp(-2 * (torch.pi * f * width) ** 2)
            shape = [1] * x.ndim
            shape[axis] = len(f)
            x = torch.fft.irfft(torch.fft.rfft(x, dim=axis) * fall.view(shape), n=x.shape[axis], dim=axis)
        return x

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.A(y)


class Coarser(Linear):
    """Voxels larger by whole factors along D, H, W, each the mean of those it covers, as thick slices are.

    `start` is interpolation: trilinear, or bicubic where only H and W were coarser.
    """

    def __init__(self, factor: Triple) -> None:
        self.factor = factor

    def A(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C, D/f, H/f, W/f), what is left over at the end unread."""
        return F.avg_pool3d(x, self.factor)

    def A_adjoint(self, y: Tensor) -> Tensor:
        spread = y
        for axis, factor in zip((-3, -2, -1), self.factor, strict=True):
            spread = spread.repeat_interleave(factor, axis)
        return spread / (self.factor[0] * self.factor[1] * self.factor[2])

    def start(self, y: Tensor) -> Tensor:
        size = [n * f for n, f in zip(y.shape[2:], self.factor, strict=True)]
        if self.factor[0] > 1:
            return F.interpolate(y, size, mode="trilinear", align_corners=False)
        flat = F.interpolate(y.transpose(1, 2).flatten(0, 1), size[1:], mode="bicubic", align_corners=False)
        return flat.unflatten(0, (len(y), -1)).transpose(1, 2)


def ringed(lines: Tensor, *, deviation: float, generator: torch.Generator) -> Tensor:
    """A sinogram (B, C, D, cells, views) whose cells are calibrated wrongly by `deviation`: rings in the picture."""
    gains = torch.randn(1, 1, 1, lines.shape[3], 1, generator=generator)
    return lines + deviation * gains


def moved(kspace: Tensor, *, voxels: float, share: float, generator: torch.Generator) -> Tensor:
    """K-space (..., H, W) whose last `share` of rows was read after a shift by up to `voxels` along H and W: ghosts.

    Rows are read from the first to the last, so the middle is spoilt where `share` is above a half.
    """
    rows, columns = kspace.shape[-2:]
    h, w = (torch.rand(2, generator=generator) * 2 - 1) * voxels
    fh = (torch.arange(rows) - rows // 2) / rows
    fw = (torch.arange(columns) - columns // 2) / columns
    ramp = -2 * torch.pi * (fh[:, None] * h + fw[None] * w)
    after = torch.arange(rows)[:, None] >= round(rows * (1 - share))
    return kspace * torch.polar(torch.ones_like(ramp), torch.where(after, ramp, 0.0))
