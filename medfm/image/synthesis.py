"""Label map -> magnetic resonance image of random contrast, resolution and artefacts, with lesions of known size.

The generative model of SynthSeg (Billot et al., Medical Image Analysis 2023): warp the labels, paint each with a
Gaussian, then do to the picture what a scanner does. Arrays are (D, H, W), lengths in mm along D, H, W, and every draw
comes from the `torch.Generator` that is handed in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "acquire", "bias_field", "blob", "disturb", "normalise", "paint", "random_contrast", "random_points",
    "sample_labels",
]  # fmt: skip

_Three = Sequence[float]
# (grey matter, white matter, fluid), each from and to, where 1 is the brightest
_USUAL = (
    ((0.4, 0.65), (0.7, 1.0), (0.03, 0.3)),  # T1
    ((0.4, 0.65), (0.2, 0.45), (0.8, 1.0)),  # T2
    ((0.55, 0.8), (0.35, 0.55), (0.0, 0.25)),  # FLAIR
)


def random_points(
    shape: Sequence[int], *, spacing: _Three, generator: torch.Generator, degrees: float = 15, zoom: float = 0.12,
    shear: float = 0.04, shift: float | _Three = 8, warp: float = 3.5, knots: float = 36,
) -> Tensor:  # fmt: skip
    """Where each voxel of a window comes from: (D, H, W, 3) in mm along D, H, W from the window's centre.

    A random rotation (`degrees`), scale, shear and shift (mm, for all axes or each), then a smooth displacement: at
    most `warp` mm of standard deviation at knots every `knots` mm, too flat to fold.
    """
    angles = _symmetric(3, generator) * math.radians(degrees)
    matrix = torch.eye(3) + (_symmetric(9, generator).view(3, 3) * shear).fill_diagonal_(0)
    matrix = _rotation(angles) @ matrix @ torch.diag(1 + _symmetric(3, generator) * zoom)
    axes = [(torch.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)]
    parts = [axis[:, None] * matrix[:, i] for i, axis in enumerate(axes)]  # the affine part is a sum of three lines
    moved = parts[0][:, None, None] + parts[1][None, :, None] + parts[2][None, None]
    moved += _symmetric(3, generator) * torch.as_tensor(shift)
    coarse = [max(2, math.ceil(n * s / knots) + 1) for n, s in zip(shape, spacing, strict=True)]
    knot = torch.randn(1, 3, *coarse, generator=generator) * (warp * torch.rand((), generator=generator))
    return moved.add_(_smooth(knot, shape)[0].movedim(0, -1))


def sample_labels(labels: Tensor, points: Tensor, *, spacing: _Three, centre: _Three) -> Tensor:
    """The label at each of `points` (D, H, W, 3), mm from `centre` (a voxel index); outside is 0.

    labels: (D', H', W') of any integer type, with voxels of `spacing` mm. Nearest neighbour: labels are names.
    """
    flat = torch.zeros(points.shape[:-1], dtype=torch.int64)
    outside = torch.zeros(points.shape[:-1], dtype=torch.bool)
    for axis, size in enumerate(labels.shape):
        index = (points[..., axis] / spacing[axis] + centre[axis]).round_().long()
        outside |= (index < 0) | (index >= size)
        flat.mul_(size).add_(index)
    found = labels.reshape(-1)[flat.masked_fill_(outside, 0)]
    return found.masked_fill_(outside, 0)


def random_contrast(
    looks: Tensor, grey: Tensor, *, generator: torch.Generator, related: float = 0.5, common: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Mean and deviation (L,) of each label's brightness in 0 to 1.

    looks: (L,) numbers; labels of one number look alike (left and right). grey: (L, 3) weights of grey matter, white
    matter and fluid in a label, or NaN where it is none of them. With the probability `related` three random
    brightnesses are mixed by these weights, which covers T1, T2, FLAIR and proton density and their inversions;
    otherwise every look is drawn alone, as SynthSeg does. common: share of the mixtures whose order is that of a T1, T2
    or FLAIR image, each as likely.
    """
    count = int(looks.max()) + 1
    means = 0.05 + 0.95 * torch.rand(count, generator=generator)[looks]
    deviations = (0.01 + 0.08 * torch.rand(count, generator=generator))[looks]
    jitter = 0.04 * torch.randn(count, generator=generator)[looks]
    tissue = torch.rand(3, generator=generator)
    if common and torch.rand((), generator=generator) < common:
        low, high = torch.tensor(_USUAL[int(torch.randint(len(_USUAL), (), generator=generator))]).T
        tissue = low + (high - low) * tissue
    if torch.rand((), generator=generator) < related:
        means = torch.where(grey.isnan().any(1), means, (grey @ tissue + jitter).clamp(0, 1))
        deviations = deviations * 0.6  # the contrast between tissues is smaller here than between random draws
    if torch.rand((), generator=generator) < 0.7:  # air is mostly black
        means[looks == looks[0]], deviations[looks == looks[0]] = 0.0, 0.01
    return means, deviations


def paint(labels: Tensor, means: Tensor, deviations: Tensor, *, generator: torch.Generator) -> Tensor:
    """One Gaussian per label: (D, H, W) float32 of at least 0."""
    noise = torch.randn(labels.shape, generator=generator)
    index = labels.long()
    return noise.mul_(deviations[index]).add_(means[index]).clamp_(min=0)


def bias_field(shape: Sequence[int], *, generator: torch.Generator, strength: float = 0.5) -> Tensor:
    """A smooth positive factor (D, H, W): the exponential of random knots of up to `strength` deviation."""
    knots = torch.randn(1, 1, *[3 + int(n > 64) for n in shape], generator=generator)
    return _smooth(knots * (strength * torch.rand((), generator=generator)), shape)[0, 0].exp_()


def disturb(image: Tensor, *, spacing: _Three, generator: torch.Generator, chance: float) -> Tensor:
    """What scans show that is neither anatomy nor disease, each with the probability `chance`: a mottled signal, a
    region near a coil, uneven slices, a ghost."""

    def random(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    sides = [n * s for n, s in zip(image.shape, spacing, strict=True)]
    if random(0, 1) < chance:
        knots = torch.randn(1, 1, *[math.ceil(mm / 15) + 1 for mm in sides], generator=generator)
        image = image * (1 + random(0, 0.15) * _smooth(knots, image.shape)[0, 0]).clamp(min=0)
    if random(0, 1) < chance:
        bump = torch.ones(())
        for n, mm in zip(image.shape, sides, strict=True):
            line = (torch.arange(n) + 0.5) * mm / n - random(0, mm)
            bump = bump[..., None] * (-0.5 * (line / random(25, 60)) ** 2).exp()
        image = image * (random(-0.6, 0.6) * bump).exp()
    if random(0, 1) < chance:
        axis = int(random(0, 3))
        gain = torch.ones(image.shape[axis])
        for _ in range(int(random(1, 5))):
            start = int(random(0, len(gain)))
            gain[start : start + max(1, round(random(2, 8) / spacing[axis]))] *= random(0.7, 1.3)
        image = image * gain.view([-1 if other == axis else 1 for other in range(3)])
    if random(0, 1) < chance:
        axis = int(random(0, 3))
        image = image + random(0, 0.15) * image.roll(round(random(0.2, 0.8) * image.shape[axis]), axis)
    return image


def acquire(
    image: Tensor, *, spacing: _Three, target: _Three, generator: torch.Generator, noise: float = 0.04
) -> Tensor:
    """Scan `image` with voxels of `target` mm: blur as thick slices do, take fewer samples, add noise.

    Returns fewer voxels over the same field of view. A `target` below `spacing` blurs a little and resamples nothing.
    """
    sharpness = 0.6 + 0.4 * torch.rand((), generator=generator).item()
    for axis in range(3):  # FWHM of a slice: SynthSeg's sigma for its thickness, less what the labels already have
        image = _blur(image, axis, sharpness * 0.45 * max(1.0, target[axis] / spacing[axis]))
    size = [
        max(1, round(n * s / max(s, t))) for n, s, t in zip(image.shape, spacing, target, strict=True)
    ]  # fmt: skip
    if size != list(image.shape):
        image = F.interpolate(image[None, None], size, mode="trilinear", align_corners=False)[0, 0]
    amount = noise * torch.rand((), generator=generator)
    return image + torch.randn(image.shape, generator=generator) * amount * image.max()


def blob(inside: Tensor, *, spacing: _Three, volume: float, generator: torch.Generator) -> Tensor:
    """A lesion: a lumpy ellipsoid of `volume` ml within the mask `inside` (D, H, W), as a mask of the same shape.

    It is grown from a random voxel of `inside` in the order of a distorted distance until the volume is reached, so
    its volume is true to half a voxel and it never leaves `inside`.

    Raises:
        ValueError: `inside` is smaller than the lesion.
    """
    count = max(1, round(volume * 1000 / math.prod(spacing)))
    candidates = inside.nonzero()
    if len(candidates) < count:
        raise ValueError(f"a lesion of {volume:g} ml needs {count} voxels; the place for it has {len(candidates)}")
    # a seed away from the border has room on all sides: the deepest of a few
    picks = candidates[torch.randint(len(candidates), (8,), generator=generator)]
    seed = max(picks.tolist(), key=lambda p: _room(inside, p, reach=max(1, round(count ** (1 / 3) / 2))))
    near = (candidates - torch.tensor(seed)).abs() * torch.tensor([float(s) for s in spacing])
    close = candidates[near.amax(1) < 20 * volume ** (1 / 3)]  # three radii: all of a hemisphere takes long to sort
    candidates = close if len(close) >= count else candidates
    offset = (candidates - torch.tensor(seed)) * torch.tensor([float(s) for s in spacing])
    stretch = torch.diag(0.7 + 0.6 * torch.rand(3, generator=generator))
    turned = offset @ _rotation(_symmetric(3, generator) * math.pi) @ stretch
    waves = torch.randn(3, 4, generator=generator) / (0.6 * (1000 * volume) ** (1 / 3))
    lumps = (offset @ waves + 6.28 * torch.rand(4, generator=generator)).sin().mean(1)
    order = (turned.norm(dim=1) * (1 + 0.35 * lumps)).argsort()[:count]
    mask = torch.zeros_like(inside, dtype=torch.bool)
    mask[tuple(candidates[order].T)] = True
    return mask


def normalise(image: Tensor) -> Tensor:
    """To [0, 1] between the 0.5th and the 99.5th percentile: the same in training and in use."""
    step = max(1, image.numel() // 100_000)
    low, high = torch.quantile(image.flatten()[::step].float(), torch.tensor([0.005, 0.995]))
    return ((image - low) / (high - low).clamp(min=1e-6)).clamp_(0, 1)


def _room(inside: Tensor, place: list[int], *, reach: int) -> float:
    box = inside[tuple(slice(max(0, p - reach), p + reach + 1) for p in place)]
    return float(box.float().mean())


def _symmetric(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator) * 2 - 1


def _rotation(angles: Tensor) -> Tensor:
    """Rotation (3, 3) by three angles in radians, one around each axis."""
    turn = torch.eye(3)
    for axis, angle in enumerate(angles.tolist()):
        a, b = [other for other in range(3) if other != axis]
        one = torch.eye(3)
        one[a, a] = one[b, b] = math.cos(angle)
        one[a, b], one[b, a] = -math.sin(angle), math.sin(angle)
        turn = turn @ one
    return turn


def _smooth(knots: Tensor, shape: Sequence[int]) -> Tensor:
    """(1, C, d, h, w) -> (1, C, *shape) without the creases of linear interpolation alone."""
    finer = F.interpolate(knots, [4 * n for n in knots.shape[2:]], mode="trilinear", align_corners=True)
    padded = F.pad(finer, (2,) * 6, mode="replicate")
    return F.interpolate(F.avg_pool3d(padded, 5, 1), list(shape), mode="trilinear", align_corners=True)


def _blur(image: Tensor, axis: int, sigma: float) -> Tensor:
    """Gaussian blur along one axis, sigma in voxels."""
    reach = max(1, math.ceil(2.5 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    pad = [0] * 6
    pad[2 * (2 - axis)] = pad[2 * (2 - axis) + 1] = reach
    padded = F.pad(image[None, None], pad, mode="replicate")[0, 0]
    total = torch.zeros_like(image)
    for shift, weight in enumerate((kernel / kernel.sum()).tolist()):
        total.add_(padded.narrow(axis, shift, image.shape[axis]), alpha=weight)
    return total
