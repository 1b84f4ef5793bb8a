"""ADMM-Net: the alternating direction method of multipliers, unrolled, with filters and shrinkage functions learned."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm.errors import ConfigError
from medfm.nn.slices import fold, unfold
from medfm.physics.linear import Linear
from medfm.physics.mri import Cartesian, fourier, inverse_fourier

__all__ = ["ADMM", "PiecewiseLinear"]


class PiecewiseLinear(nn.Module):
    """One function a channel, linear between `points` values at equal distances on [-reach, reach], and beyond them.

    Starts as the soft threshold at `threshold`.
    """

    def __init__(self, channels: int, *, points: int = 101, reach: float = 1.0, threshold: float = 0.01) -> None:
        super().__init__()
        at = torch.linspace(-reach, reach, points)
        self.reach, self.points = reach, points
        start = at.sign() * (at.abs() - threshold).clamp(min=0)
        self.values = nn.Parameter(start.expand(channels, points).clone())

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) real -> the same."""
        place = (x + self.reach) * ((self.points - 1) / (2 * self.reach))
        left = place.detach().floor().clamp(0, self.points - 2)
        share = place - left
        channel = torch.arange(x.shape[1], device=x.device).view(1, -1, *[1] * (x.ndim - 2)) * self.points
        index = left.long() + channel
        flat = self.values.flatten()
        return flat[index] * (1 - share) + flat[index + 1] * share


class ADMM(nn.Module):
    """Four layers a stage (Yang, Sun, Li & Xu, NIPS 2016; IEEE TPAMI 2020), for one coil and Cartesian sampling.

    X: argmin 1/2 |A x - y|^2 + sum rho_l/2 |H_l x + b_l - z_l|^2, in closed form in k-space. C: c_l = D_l x.
    Z: z_l = S_l(c_l + b_l), a learned piecewise-linear function of the real and of the imaginary part. M: b_l += eta_l
    (c_l - z_l). All of H, D, rho, S, eta are learned, each stage has its own. Before training it is plain ADMM with
    the DCT as the sparse transform and soft thresholds.

    Args:
        stages: X layers. filter: side of the DCT filters, filter^2 - 1 of them. points: of a function. penalty: rho,
            threshold: of the soft threshold (weight / rho), both at the start.
    """

    data = True

    def __init__(
        self, *, channels: int, encoder: dict[str, Any] | None = None, ct: bool = False, stages: int = 8,
        filter: int = 3, points: int = 101, penalty: float = 0.1, threshold: float = 0.01,
    ) -> None:  # fmt: skip
        super().__init__()
        if encoder is not None or channels != 2 or ct:
            raise ConfigError("the ADMM head reads k-space of one coil and has filters of its own: leave `encoder` out")
        bank = dct_filters(filter)
        self.stages = stages
        self.analysis = nn.ParameterList(bank.clone() for _ in range(stages))  # D
        self.synthesis = nn.ParameterList(bank.clone() for _ in range(stages))  # H
        self.penalties = nn.Parameter(torch.full((stages, len(bank)), penalty))
        self.rates = nn.Parameter(torch.ones(stages, len(bank)))
        self.shrink = nn.ModuleList(
            PiecewiseLinear(len(bank), points=points, threshold=threshold) for _ in range(stages)
        )

    def forward(self, x: Tensor, y: Tensor | None, operator: Linear | None, spacing: Tensor | None) -> list[Tensor]:
        """y: (B, 1, D, H, W) samples -> a picture a stage. x is not needed: the first X layer starts from the data."""
        if y is None or not isinstance(operator, Cartesian) or operator.maps is not None or operator.ndim != 2:
            raise ConfigError("ADMM-Net's closed form needs Cartesian slices of one coil, without maps")
        mask = fold(operator.mask.expand(len(y), 1, *y.shape[2:])).float()
        k = fold(y) * mask
        size = (y.shape[-2], y.shape[-1])
        z = b = k.new_zeros(len(k), self.penalties.shape[1], *size)
        stages = []
        for n in range(self.stages):
            rho = self.penalties[n].clamp(min=1e-4).view(1, -1, 1, 1)
            h = transfer(self.synthesis[n], size)
            pull = (rho * h.conj() * fourier(z - b, 2)).sum(1, keepdim=True)
            total = mask + (rho * h.abs().square()).sum(1, keepdim=True)
            found = inverse_fourier((k + pull) / total.clamp(min=1e-6), 2)
            stages.append(unfold(found, len(y)))
            if n + 1 < self.stages:
                c = inverse_fourier(transfer(self.analysis[n], size) * fourier(found, 2), 2)
                z = torch.complex(self.shrink[n]((c + b).real), self.shrink[n]((c + b).imag))
                b = b + self.rates[n].view(1, -1, 1, 1) * (c - z)
        return stages


def dct_filters(side: int) -> Tensor:
    """(side^2 - 1, side, side): the orthonormal cosines, without the constant one."""
    n = torch.arange(side)
    basis = torch.cos(torch.pi * (2 * n[None] + 1) * n[:, None] / (2 * side))
    basis = F.normalize(basis, dim=1)
    return torch.einsum("ia,jb->ijab", basis, basis).flatten(0, 1)[1:].clone() / side


def transfer(filters: Tensor, size: tuple[int, int]) -> Tensor:
    """(L, s, s) real filters -> (1, L, H, W): what their circular convolutions multiply k-space with."""
    side = filters.shape[-1]
    padded = F.pad(filters, (0, size[1] - side, 0, size[0] - side)).roll((-(side // 2), -(side // 2)), (-2, -1))
    return torch.fft.fftshift(torch.fft.fft2(padded), (-2, -1))[None]
