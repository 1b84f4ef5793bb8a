"""Complex numbers in real layers: channels hold all real parts, then all imaginary parts."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm.nn.stages import Triple

__all__ = ["ComplexConv", "to_complex", "to_real"]


def to_real(x: Tensor) -> Tensor:
    """(B, C, ...) complex -> (B, 2C, ...); what is real stays as it is."""
    return torch.cat([x.real, x.imag], 1) if x.is_complex() else x


def to_complex(x: Tensor) -> Tensor:
    """(B, 2C, ...) -> (B, C, ...) complex."""
    return torch.complex(*x.chunk(2, 1))


class ComplexConv(nn.Module):
    """(A + iB) * (x + iy) = (A*x - B*y) + i(A*y + B*x), stride 1, on (B, 2 width_in, ...).

    Source: Wang et al., DeepcomplexMRI, MRI 68:136, 2020. The bias is complex too.
    """

    def __init__(self, ndim: int, width_in: int, width_out: int, kernel: Triple, *, bias: bool = True) -> None:
        super().__init__()
        sizes = kernel[-ndim:]
        self.ndim, self.padding = ndim, tuple((k - 1) // 2 for k in sizes)
        spread = 1 / math.sqrt(2 * width_in * math.prod(sizes))  # He's variance, halved: both parts add up
        self.real = nn.Parameter(torch.randn(width_out, width_in, *sizes) * spread)
        self.imaginary = nn.Parameter(torch.randn(width_out, width_in, *sizes) * spread)
        self.bias = nn.Parameter(torch.zeros(2 * width_out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.real, self.imaginary
        weight = torch.cat([torch.cat([a, -b], 1), torch.cat([b, a], 1)])
        return (F.conv2d if self.ndim == 2 else F.conv3d)(x, weight, self.bias, padding=self.padding)
