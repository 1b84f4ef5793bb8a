"""Random changes that keep what a picture shows: small shifts, turns, scales and contrasts, never a mirror.

A mirror would swap left and right, which the questions and labels name.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["contrast", "slab", "warp_affine"]


def warp_affine(
    x: Tensor, generator: torch.Generator, *, degrees: float = 10, zoom: float = 0.12, shift: float = 0.06
) -> tuple[Tensor, Tensor]:
    """Turn, scale and shift each picture of (B, C, H, W); returns the pictures and the sampling grid used."""
    count = len(x)
    draw = torch.rand(count, 5, generator=generator) * 2 - 1
    angle, scale = draw[:, 0] * math.radians(degrees), 1 + draw[:, 1] * zoom
    stretch = 1 + draw[:, 4] * zoom / 2
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = angle.cos() * scale * stretch, -angle.sin() * scale
    theta[:, 1, 0], theta[:, 1, 1] = angle.sin() * scale, angle.cos() * scale / stretch
    theta[:, :, 2] = draw[:, 2:4] * shift * 2
    grid = F.affine_grid(theta, [count, 1, *x.shape[-2:]], align_corners=False)
    return F.grid_sample(x, grid, align_corners=False), grid


def contrast(x: Tensor, generator: torch.Generator, *, strength: float = 0.3) -> Tensor:
    """Gamma, window, noise and a soft blur on (B, 3, D, H, W) in [0, 1]; sometimes another window per channel.

    The channels of a CT are three windows of one picture while those of a photographed slice are equal: windows drawn
    per channel teach the encoder to read both.
    """
    count = len(x)

    def draw(*shape: int) -> Tensor:
        return torch.rand(count, *shape, 1, 1, 1, generator=generator)

    shared = (draw(1) < 0.6).float()
    low = strength * 0.4 * (draw(1) * shared + draw(3) * (1 - shared)) * (draw(1) < 0.5)
    width = 1 - strength * (draw(1) * shared + draw(3) * (1 - shared)) * (draw(1) < 0.5)
    x = ((x - low) / width).clamp(0, 1)
    x = x ** torch.exp(strength * (draw(1) * 2 - 1) * 1.5)
    x = x * (1 + strength * 0.5 * (draw(1) * 2 - 1))
    blurred = F.avg_pool3d(F.pad(x, (1, 1, 1, 1, 0, 0), mode="replicate"), (1, 3, 3), 1)
    x = torch.where(draw(1) < 0.2, blurred, x)
    noise = torch.randn(x.shape, generator=generator) * 0.04 * draw(1) * (draw(1) < 0.3)
    return (x + noise).clamp(0, 1)


def slab(x: Tensor, generator: torch.Generator, *, depth: int) -> tuple[Tensor, Tensor]:
    """Pictures (B, C, H, W) -> thin slabs (B, C, depth, H, W) whose slices drift smoothly, and (B, 3) spacings in mm.

    Real volumes with questions are few; a drifting stack of one labelled slice shows the same content, so its answers
    still hold, and the layers between slices get trained.
    """
    steps = torch.linspace(-1, 1, depth)
    drift = (torch.rand(len(x), 3, generator=generator) * 2 - 1)[:, :, None] * steps
    theta = torch.zeros(len(x), depth, 2, 3)
    theta[..., 0, 0] = theta[..., 1, 1] = 1 + 0.04 * drift[:, 0]
    theta[..., 0, 2], theta[..., 1, 2] = 0.02 * drift[:, 1], 0.02 * drift[:, 2]
    grid = F.affine_grid(theta.flatten(0, 1), [len(x) * depth, 1, *x.shape[-2:]], align_corners=False)
    stacked = F.grid_sample(x.repeat_interleave(depth, 0), grid, align_corners=False)
    thickness = 1 + 7 * torch.rand(len(x), 1, generator=generator)
    pixel = 350 / x.shape[-1] * torch.ones(len(x), 2)
    return stacked.unflatten(0, (-1, depth)).transpose(1, 2), torch.cat([thickness, pixel], 1)
