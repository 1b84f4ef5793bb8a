"""Patches of volumes with their labels, turned, scaled, mirrored and recoloured at random: one sampling a patch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["patch_grid", "random_bend", "random_map", "sample_patch", "shaded", "tint", "vary_intensity"]

Shape = tuple[int, int, int]


def random_map(
    patch: Shape, spacing: Tensor, generator: torch.Generator, *, degrees: float | Sequence[float] = 15.0,
    zoom: float = 0.15, flips: str = "",
) -> Tensor:  # fmt: skip
    """A (3, 3) map from offsets in a patch to offsets in the volume, both in voxels along D, H, W.

    Turned by up to `degrees` about each axis (one number, or three for D, H, W) and scaled by 1 ± `zoom` in
    millimetres, so thick slices stay thick; mirrored along each axis of `flips` ("D", "H", "W") half of the time. A
    patch of one slice turns in its plane only.
    """
    draw = torch.rand(9, generator=generator)
    angles = (draw[:3] * 2 - 1) * torch.tensor(degrees, dtype=torch.float32).expand(3).deg2rad()
    scale = torch.exp((draw[3:6] * 2 - 1) * math.log1p(zoom))
    if patch[0] == 1:
        angles[1:], scale[0] = 0, 1
    matrix = torch.diag(scale)
    for axis, (a, b) in enumerate(((1, 2), (0, 2), (0, 1))):
        turn = torch.eye(3)
        turn[a, a] = turn[b, b] = angles[axis].cos()
        turn[a, b], turn[b, a] = -angles[axis].sin(), angles[axis].sin()
        matrix = turn @ matrix
    matrix = matrix * spacing[None, :] / spacing[:, None]
    for axis, name in enumerate("DHW"):
        if name in flips and draw[6 + axis] < 0.5:
            matrix[:, axis] *= -1
    return matrix


def random_bend(
    patch: Shape, spacing: Tensor, generator: torch.Generator, *, mm: float | Sequence[float], apart: float = 12.0
) -> Tensor:
    """A smooth displacement (3, *patch) in voxels along D, H, W: normal with a deviation of `mm` (one number, or three)
    at points `apart` mm apart, linear between them (Ronneberger et al. 2015)."""
    points = [max(2, round(n * s / apart) + 1) for n, s in zip(patch, spacing.tolist(), strict=True)]
    deviation = torch.tensor(mm, dtype=torch.float32).expand(3) / spacing
    drawn = torch.randn(1, 3, *points, generator=generator) * deviation.view(1, 3, 1, 1, 1)
    return F.interpolate(drawn, patch, mode="trilinear", align_corners=True)[0]


def patch_grid(
    shape: Sequence[int], *, centre: Sequence[float], patch: Shape, matrix: Tensor, bend: Tensor | None = None
) -> Tensor:
    """For `grid_sample` of a volume of `shape` (D, H, W): (1, *patch, 3), where each voxel p of a patch is taken from.

    That is centre + matrix @ (p - middle) + bend[:, p]. centre: voxels along D, H, W. matrix: (3, 3), see `random_map`;
    bend: (3, *patch), see `random_bend`.
    """
    axes = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in patch]
    lines = [axis[:, None] * matrix[:, i] for i, axis in enumerate(axes)]  # an affine map is a sum of three lines
    place = lines[0][:, None, None] + lines[1][None, :, None] + lines[2][None, None] + torch.tensor(list(centre))
    if bend is not None:
        place = place + bend.movedim(0, -1)
    return (((2 * place + 1) / torch.tensor(shape, dtype=torch.float32)) - 1).flip(-1)[None]


def sample_patch(
    x: Tensor, labels: Tensor, *, centre: Sequence[float], patch: Shape, matrix: Tensor, classes: int,
    bend: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Crop and warp in one go: x (C, D, H, W), labels (D, H, W) uint8 -> (C, *patch), (*patch) long.

    Where voxels come from: see `patch_grid`. Beyond its border the volume repeats its last voxels and has label 0.
    Labels keep smooth borders: each class is sampled linearly and the largest wins (up to eight classes; with more, the
    nearest voxel's label).
    """
    grid = patch_grid(x.shape[1:], centre=centre, patch=patch, matrix=matrix, bend=bend)
    warped = F.grid_sample(x[None], grid, padding_mode="border", align_corners=False)[0]
    if classes > 8:
        nearest = F.grid_sample(labels[None, None].float(), grid, mode="nearest", align_corners=False)
        return warped, nearest[0, 0].long()
    values = torch.arange(1, classes).view(-1, 1, 1, 1)
    shares = F.grid_sample((labels[None] == values).float()[None], grid, align_corners=False)[0]
    shares = torch.cat([1 - shares.sum(0, keepdim=True), shares])
    return warped, shares.max(0).indices  # argmax is nine times slower where classes lie apart in memory


def vary_intensity(x: Tensor, generator: torch.Generator, *, strength: float = 1.0) -> Tensor:
    """Contrast, brightness, gamma, blur and noise on (B, C, D, H, W) of z-scores or of 0..1; each for some samples.

    The probabilities and ranges follow nnU-Net (Isensee et al., Nature Methods 2021, supplementary note 4), scaled by
    `strength`; the noise by each sample's own standard deviation.
    """

    def draw(chance: float = 1.0) -> tuple[Tensor, Tensor]:
        value = torch.rand(len(x), 1, 1, 1, 1, generator=generator) * 2 - 1
        return value * strength, torch.rand(len(x), 1, 1, 1, 1, generator=generator) < chance

    axes = (2, 3, 4)
    mean, std = x.mean(axes, keepdim=True), x.std(axes, keepdim=True).clamp(min=1e-6)
    z = (x - mean) / std
    low, high = z.amin(axes, keepdim=True), z.amax(axes, keepdim=True)
    value, chosen = draw(0.3)
    bent = ((z - low) / (high - low + 1e-6)).pow(torch.exp(0.4 * value)) * (high - low) + low
    z = torch.where(chosen, bent, z)
    value, chosen = draw(0.2)
    flat = (1, 3, 3) if x.shape[2] == 1 else (3, 3, 3)
    blurred = F.avg_pool3d(F.pad(z, [n // 2 for n in flat[::-1] for _ in (0, 1)], mode="replicate"), flat, 1)
    z = torch.where(chosen, z + value.abs() * (blurred - z), z)
    value, _ = draw()
    shift, _ = draw()
    z = z * torch.exp(0.25 * value) + 0.2 * shift
    value, chosen = draw(0.3)
    z = z + chosen * value.abs() * 0.2 * torch.randn(x.shape, generator=generator)
    return z * std + mean


def shaded(x: Tensor, target: Tensor, offsets: Tensor, scales: Sequence[float]) -> Tensor:
    """x (B, C, D, H, W) with the classes of target (B, D, H, W) brighter by offsets (B, 1 + K), the background's aside.

    scales: of each channel's numbers against those of the offsets. Where a channel is at the end of its window, at 0 or
    1, it stays there.
    """
    offsets = offsets.clone()
    offsets[:, 0] = 0
    by = torch.stack([own[labels] for own, labels in zip(offsets, target, strict=True)])[:, None]
    moved = x + by * torch.tensor(list(scales)).view(1, -1, 1, 1, 1)
    return torch.where((x == 0) | (x == 1), x, moved)


def tint(x: Tensor, generator: torch.Generator, *, strength: float) -> Tensor:
    """(B, 3, D, H, W) of 0..1 under other lamps and cameras: each channel times a factor of its own, exp(-strength) to
    exp(strength)."""
    drawn = torch.rand(len(x), x.shape[1], 1, 1, 1, generator=generator) * 2 - 1
    return (x * torch.exp(strength * drawn)).clamp(0, 1)
