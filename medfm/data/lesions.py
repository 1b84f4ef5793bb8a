"""Lesions planted into painted brains, and what a model may take for one: their place, shape and brightness."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medfm.image import synthesis

__all__ = ["VISIBLE", "VOLUMES", "apart", "brighten", "contrast", "plant", "spots", "widened"]

VOLUMES = (0.065, 33.5)  # ml of spheres of 5 and 40 mm
VISIBLE = 1.0  # least `contrast` of a lesion that a reader can be asked for
_NEAR = 5.0  # mm that surroundings reach
# Where lesions lie: the tissue of one side, by FreeSurfer's numbers.
_PLACE = {"left": (2, 3, 7, 8, 10, 11, 12), "right": (41, 42, 46, 47, 49, 50, 51)}
_VENTRICLE = {4: 2, 43: 41}  # lateral ventricle -> the white matter that it grows into


def plant(
    structures: Tensor, count: int, volumes: tuple[float, float], spacing: Sequence[float], generator: torch.Generator
) -> tuple[Tensor, list[str]]:
    """Up to `count` lesions of `volumes` ml (drawn in the logarithm) as values 1, 2, ... on the grid of mask values
    `structures`, each in the tissue of one side, and the side of each."""
    planted, sides, index = torch.zeros_like(structures), list[str](), structures.long()
    low, high = math.log(volumes[0]), math.log(volumes[1])
    for _ in range(count):
        side = ("left", "right")[int(torch.randint(2, (), generator=generator))]
        inside = torch.isin(torch.arange(256), torch.tensor(_PLACE[side]))[index] & (planted == 0)
        volume = math.exp(low + (high - low) * torch.rand((), generator=generator).item())
        if inside.sum() * math.prod(spacing) < 2000 * volume:  # hardly any of this side is in the window
            continue
        planted[synthesis.blob(inside, spacing=spacing, volume=volume, generator=generator)] = len(sides) + 1
        sides.append(side)
    return planted, sides


def brighten(
    image: Tensor, planted: Tensor, labels: Tensor, means: Tensor, *, uneven: float, spacing: Sequence[float],
    generator: torch.Generator, cored: float = 0.5,
) -> list[float]:  # fmt: skip
    """Paint the lesions of `planted` (see `plant`) into `image` (D, H, W) in place; the brightness of each.

    A lesion is at least 0.15 of the range brighter or darker than the two `labels` that it lies in most, whose
    brightnesses are `means`. uneven: deviation within a lesion. cored: share of them with a core of another brightness,
    so that the rest is a ring, as oedema around a tumour is.
    """
    found = []
    for number in range(1, int(planted.max()) + 1):
        here = planted == number
        hosts = labels[here].long().bincount(minlength=len(means)).topk(2)
        bright = apart(means[hosts.indices[hosts.values > 0]], generator)
        found.append(bright)
        _fill(image, here, bright, uneven, generator)
        volume = float(here.sum()) * math.prod(spacing) / 1000
        if torch.rand((), generator=generator) < cored:
            share = 0.15 + 0.5 * torch.rand((), generator=generator).item()
            core = synthesis.blob(here, spacing=spacing, volume=share * volume, generator=generator)
            _fill(image, core, torch.rand((), generator=generator).item(), uneven, generator)
    return found


def spots(
    image: Tensor, inside: Tensor, *, uneven: float, spacing: Sequence[float], generator: torch.Generator
) -> None:
    """Paint up to three blobs of any brightness and 0.1 to 10 ml into `image` in place, within the mask `inside`: what
    lies in a head around the brain is no lesion, however it looks."""
    for _ in range(1 + int(torch.randint(3, (), generator=generator))):
        volume = 10 ** (2 * torch.rand((), generator=generator).item() - 1)
        if inside.sum() * math.prod(spacing) > 2000 * volume:
            where = synthesis.blob(inside, spacing=spacing, volume=volume, generator=generator)
            _fill(image, where, torch.rand((), generator=generator).item(), uneven, generator)


def widened(structures: Tensor, *, spacing: Sequence[float], generator: torch.Generator) -> Tensor:
    """The mask values `structures` (D, H, W) with each lateral ventricle grown by 0 to 8 mm into its white matter."""
    wider = structures.clone()
    for ventricle, white in _VENTRICLE.items():
        reach = 8 * torch.rand((), generator=generator).item()
        grown = (structures == ventricle).float()[None]
        for axis, mm in enumerate(spacing):  # a box of its reach, axis by axis: as a whole it would take 4913 voxels
            steps = [round(reach / mm) if axis == other else 0 for other in range(3)]
            grown = F.max_pool3d(grown, [2 * n + 1 for n in steps], stride=1, padding=steps)
        wider[(grown[0] > 0) & (structures == white)] = ventricle
    return wider


def contrast(image: Tensor, lesion: Tensor, brain: Tensor, spacing: Sequence[float]) -> float:
    """How far the mean grey of a lesion in `image` (D, H, W) is from that of the brain within 5 mm of it, in standard
    deviations of the latter. lesion, brain: masks of that shape; other lesions are left out of the second."""
    from scipy import ndimage

    margins = [math.ceil(_NEAR / mm) for mm in spacing]
    places = lesion.nonzero()
    first, last = places.amin(0).tolist(), places.amax(0).tolist()
    cut = tuple(slice(max(0, a - m), b + m + 1) for a, b, m in zip(first, last, margins, strict=True))
    inside, grey = lesion[cut], image[cut].float()
    near = torch.from_numpy(ndimage.distance_transform_edt(~inside.numpy(), spacing)) < _NEAR
    around = grey[near & ~inside & brain[cut]]
    if len(around) < 2:
        return 0.0
    return float((grey[inside].mean() - around.mean()).abs() / around.std().clamp(min=1e-6))


def apart(hosts: Tensor, generator: torch.Generator, *, gap: float = 0.15) -> float:
    """A brightness in 0 to 1 at least `gap` away from each of `hosts`, all such being equally likely."""
    taken = sorted((max(0.0, h - gap), min(1.0, h + gap)) for h in hosts.tolist())
    free, reach = [], 0.0
    for start, end in [*taken, (1.0, 1.0)]:
        if start > reach:
            free.append((reach, start))
        reach = max(reach, end)
    at = torch.rand((), generator=generator).item() * sum(b - a for a, b in free)
    for a, b in free:
        if at <= b - a:
            return a + at
        at -= b - a
    return free[-1][1]


def _fill(image: Tensor, where: Tensor, bright: float, uneven: float, generator: torch.Generator) -> None:
    noise = torch.randn(int(where.sum()), generator=generator)
    image[where] = (bright + uneven * noise).clamp(min=0)
