"""Transformer blocks whose positions are millimetres, so one set of weights reads every spacing."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Block", "centred_positions", "rotate"]


def centred_positions(shape: tuple[int, int, int], spacing: Tensor) -> Tensor:
    """Positions in mm of the cells of a (D, H, W) grid, relative to its centre: (B, D*H*W, 3).

    spacing: (B, 3) mm between cells along D, H, W.
    """
    axes = [torch.arange(n, device=spacing.device, dtype=spacing.dtype) - (n - 1) / 2 for n in shape]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    return grid[None] * spacing[:, None]


def rotate(x: Tensor, positions: Tensor, *, shortest: float = 20.0, longest: float = 1000.0) -> Tensor:
    """Rotary embedding over three axes in mm (Su et al., RoFormer, 2021).

    x: (B, heads, N, head_dim) with head_dim divisible by 6; positions: (B, N, 3) mm. Wavelengths run from `shortest`
    to `longest` mm, so attention depends on the distance in the patient and not on the number of voxels.
    """
    count = x.shape[-1] // 6
    steps = torch.linspace(0, 1, count, device=x.device, dtype=x.dtype)
    frequencies = 2 * math.pi / (shortest * (longest / shortest) ** steps)
    angle = (positions[..., None].to(x.dtype) * frequencies).flatten(-2)[:, None]
    a, b = x.chunk(2, -1)
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)


class Block(nn.Module):
    """Pre-norm transformer block with rotary positions in mm; starts close to the identity (LayerScale)."""

    def __init__(self, width: int, heads: int, *, expand: int = 2, dropout: float = 0.0, scale: float = 0.1) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, expand * width), nn.Linear(expand * width, width)
        self.scale1 = nn.Parameter(torch.full((width,), scale))
        self.scale2 = nn.Parameter(torch.full((width,), scale))

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """x: (B, N, E); positions: (B, N, 3) mm -> (B, N, E)."""
        q, k, v = self.query_key_value(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(rotate(q, positions), rotate(k, positions), v)
        y = self.output(y.transpose(1, 2).flatten(2))
        x = x + self.scale1 * F.dropout(y, self.dropout, self.training)
        y = self.down(F.gelu(self.up(self.norm2(x))))
        return x + self.scale2 * F.dropout(y, self.dropout, self.training)
