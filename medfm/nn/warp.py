"""Displacement fields: warping by them, velocity fields integrated, finer grids and Jacobian determinants.

A displacement u (B, 3, D, H, W) moves along D, H, W and is counted in voxels of its own grid, as MONAI has it: the
warped picture is x(p + u(p)). Volumes of one slice are pictures: they are warped in their plane, u along D is 0.
"""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from monai.networks.blocks import DVF2DDF, Warp

__all__ = ["exponential", "jacobian", "resize_flow", "warp"]

Mode = Literal["bilinear", "nearest"]


def warp(x: Tensor, u: Tensor, *, mode: Mode = "bilinear", padding: Literal["border", "zeros"] = "border") -> Tensor:
    """x (B, C, D, H, W) read at p + u(p), with gradients in both (Jaderberg et al. 2015), by MONAI's `Warp`.

    Beyond its border the picture repeats its last voxels, or is 0 (`padding`). "nearest" is for label numbers.
    """
    block = _warp(mode, padding, str(u.device))
    if x.shape[2] == 1:
        return block(x[:, :, 0], u[:, 1:, 0])[:, :, None]
    warped: Tensor = block(x, u)
    return warped


def exponential(v: Tensor, *, steps: int = 7) -> Tensor:
    """The displacement that following the velocity v (B, 3, D, H, W) for unit time leads to.

    Scaling and squaring (Arsigny et al. 2006; Dalca et al. 2018) by MONAI's `DVF2DDF`: 2^steps small steps. The result
    is invertible by construction, its inverse is exponential(-v).
    """
    block = _integrate(steps, str(v.device))
    if v.shape[2] == 1:
        return torch.cat([torch.zeros_like(v[:, :1]), block(v[:, 1:, 0])[:, :, None]], 1)
    u: Tensor = block(v)
    return u


def jacobian(u: Tensor) -> Tensor:
    """(B, D, H, W): by how much p -> p + u(p) enlarges the volume at each voxel; 0 or less where it folds.

    Central differences, one-sided at the borders. The same number whether u is counted in voxels or in mm.
    """
    axes = [axis for axis in range(3) if u.shape[2 + axis] > 1]  # a picture moves in its plane only
    rows = [
        torch.stack(list(torch.gradient(u[:, axis], dim=[1 + a for a in axes])), -1) for axis in axes
    ]  # fmt: skip
    matrix = torch.stack(rows, -2) + torch.eye(len(axes)).to(u)
    determinant: Tensor = torch.linalg.det(matrix)
    return determinant


def resize_flow(flow: Tensor, size: tuple[int, int, int], *, scale: tuple[float, float, float]) -> Tensor:
    """A flow on a finer grid of `size`: linear in between, its numbers multiplied by `scale`, along D, H, W.

    scale: voxels of the finer grid in one of this. What exceeds `size` is cut off, since coarse grids round up.
    """
    if scale == (1.0, 1.0, 1.0):
        return flow
    full = [round(n * s) for n, s in zip(flow.shape[2:], scale, strict=True)]
    fine = F.interpolate(flow, full, mode="trilinear", align_corners=False)
    return fine[:, :, : size[0], : size[1], : size[2]] * flow.new_tensor(scale).view(1, 3, 1, 1, 1)


@functools.cache
def _warp(mode: str, padding: str, device: str) -> Warp:
    """One block for each device, since it keeps the grid of the last size there."""
    from monai.networks.blocks import Warp

    with warnings.catch_warnings():  # that PyTorch's own sampling is used is what we want
        warnings.simplefilter("ignore")
        return Warp(mode=mode, padding_mode=padding)


@functools.cache
def _integrate(steps: int, device: str) -> DVF2DDF:
    from monai.networks.blocks import DVF2DDF

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return DVF2DDF(num_steps=steps, padding_mode="border")
