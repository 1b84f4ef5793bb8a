"""Whole brain scans of random contrast whose truth is known: structures, and planted lesions with side and volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medfm.data.brain import Head, random_voxel, value_names
from medfm.data.lesions import plant, widened
from medfm.image import synthesis
from medfm.scan import Mask, Scan

__all__ = ["Lesion", "SyntheticScan", "synthetic_scan"]

_FIELD = (192, 224, 192)  # mm and, at 1 mm, voxels along D, H, W


@dataclass(frozen=True)
class Lesion:
    """A planted lesion: `side` of the patient ("left" or "right"), `volume` in ml, `centre` in RAS mm of the scan.

    contrast: its brightness less that of white matter, as a share of the range before the scanner did its part.
    """

    side: str
    volume: float
    centre: tuple[float, float, float]
    contrast: float


@dataclass(frozen=True)
class SyntheticScan:
    """A scan and the truth on its grid: `structures` in FreeSurfer's numbers, and `lesions`, the n-th as value n."""

    scan: Scan
    structures: Mask
    lesion_mask: Mask
    lesions: tuple[Lesion, ...]


def synthetic_scan(
    head: Head, *, generator: torch.Generator, slices: tuple[float, float] = (1.0, 3.0), lesions: int = 0,
    volumes: tuple[float, float] = (0.5, 20.0), warp: bool = True, distract: float = 0.0,
) -> SyntheticScan:  # fmt: skip
    """Scan `head` with a random protocol, slices of `slices` mm in any plane, over a field of 192 x 224 x 192 mm.

    Each lesion of `volumes` ml (drawn in the logarithm) lies in the tissue of one side, and is at least 0.15 of the
    range brighter or darker than it; half of them have a core of another brightness. distract: chance of each
    of several things that are no lesion: wide ventricles, spots outside the brain, what scanners add.
    `warp=False` leaves the person as he is.
    """
    size = (1.0, 1.0, 1.0)
    still = {} if warp else {"degrees": 0.0, "zoom": 0.0, "shear": 0.0, "shift": 0.0, "warp": 0.0}
    points = synthesis.random_points(_FIELD, spacing=size, generator=generator, **still)
    labels = synthesis.sample_labels(head.labels, points, spacing=head.spacing, centre=head.centre).long()
    structures = head.targets()[labels]
    means, deviations = synthesis.random_contrast(*head.looks(), generator=generator)
    if distract and torch.rand((), generator=generator) < distract:
        wanted = widened(structures, spacing=size, generator=generator)
        labels, structures = head.wider(labels, structures, wanted), wanted
    planted, sides = plant(structures, lesions, volumes, size, generator)
    image, bright = head.paint(
        labels, structures, means, deviations, planted=planted, spacing=size, distract=distract, generator=generator
    )
    white = float(means[head.values.tolist().index(2)])
    voxel = random_voxel(generator, low=slices[0], high=slices[1])
    image = synthesis.acquire(image, spacing=size, target=voxel, generator=generator)
    pixels = (synthesis.normalise(image) * 1000).round().to(torch.int16).numpy()
    scan = Scan.from_array(pixels, affine=_affine(image.shape), modality="MR")
    return SyntheticScan(
        scan,
        scan.mask(_on_grid(structures, image.shape), value_names()),
        scan.mask(_on_grid(planted, image.shape), {n: f"lesion {n}" for n in range(1, lesions + 1)}),
        tuple(_lesion(planted == n, side, bright[n - 1] - white) for n, side in enumerate(sides, 1)),
    )


def _affine(shape: Sequence[int]) -> np.ndarray:
    """Index (w, h, d) to RAS mm of a grid of `shape` over the field of view, whose middle is the origin."""
    voxel = np.array([f / n for f, n in zip(_FIELD[::-1], tuple(shape)[::-1], strict=True)])
    affine = np.diag([*voxel, 1.0])
    affine[:3, 3] = (voxel - np.array(_FIELD[::-1])) / 2
    return affine


def _on_grid(labels: Tensor, shape: Sequence[int]) -> np.ndarray:
    """Nearest labels at the voxel centres of a coarser grid over the same field."""
    for axis, (fine, coarse) in enumerate(zip(labels.shape, shape, strict=True)):
        index = ((torch.arange(coarse) + 0.5) * fine / coarse).long().clamp(max=fine - 1)
        labels = labels.index_select(axis, index)
    return labels.numpy()


def _lesion(mask: Tensor, side: str, contrast: float) -> Lesion:
    middle = mask.nonzero().float().mean(0) - (torch.tensor(_FIELD) - 1) / 2
    z, y, x = middle.tolist()
    return Lesion(side, float(mask.sum()) / 1000, (x, y, z), contrast)
