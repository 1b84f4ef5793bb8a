"""Label maps of whole heads as an endless source of brain MR: which structures there are, and samples to train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medfm.data import lesions
from medfm.errors import ConfigError, ScanError
from medfm.image import synthesis
from medfm.scan import Scan

__all__ = ["MAIN", "STRUCTURES", "Head", "random_voxel", "read_heads", "value_names"]

# What is told apart, with FreeSurfer's numbers: one of the midline, or left and right.
STRUCTURES: dict[str, tuple[int, ...]] = {
    "cerebrospinal fluid": (24,), "third ventricle": (14,), "fourth ventricle": (15,), "brain stem": (16,),
    "cerebral white matter": (2, 41), "cerebral cortex": (3, 42), "lateral ventricle": (4, 43),
    "cerebellar white matter": (7, 46), "cerebellar cortex": (8, 47), "thalamus": (10, 49), "caudate": (11, 50),
    "putamen": (12, 51), "pallidum": (13, 52), "hippocampus": (17, 53), "amygdala": (18, 54), "accumbens": (26, 58),
    "ventral diencephalon": (28, 60),
}  # fmt: skip
# Those that SynthSeg's paper reports (Billot et al. 2023), so that figures can be set side by side.
MAIN = (
    "cerebral white matter", "cerebral cortex", "lateral ventricle", "cerebellar white matter", "cerebellar cortex",
    "thalamus", "caudate", "putamen", "pallidum", "hippocampus", "amygdala", "brain stem",
)  # fmt: skip
# Painted on their own, but part of a structure: inferior horns and plexus, white matter lesions, small vessels.
_PART_OF = {5: 4, 44: 43, 136: 4, 137: 4, 163: 43, 164: 43, 25: 2, 57: 41, 30: 2, 62: 41}
_OWN = (25, 57, 30, 62)  # of these, what a person has of his own: white matter lesions and small vessels
_PAIRS = {41: 2, 42: 3, 43: 4, 44: 5, 46: 7, 47: 8, 49: 10, 50: 11, 51: 12, 52: 13, 53: 17, 54: 18, 57: 25, 58: 26,
          60: 28, 62: 30, 163: 136, 164: 137}  # fmt: skip
# (grey matter, white matter, fluid) in what a voxel of each label looks like
_GREY = {
    2: (0, 1, 0), 7: (0, 1, 0), 85: (0, 1, 0), 16: (0.25, 0.75, 0), 28: (0.35, 0.65, 0), 13: (0.35, 0.65, 0),
    10: (0.65, 0.35, 0), 11: (0.95, 0.05, 0), 12: (0.9, 0.1, 0), 26: (0.95, 0.05, 0), 17: (1, 0, 0), 18: (1, 0, 0),
    3: (1, 0, 0), 8: (1, 0, 0), 4: (0, 0, 1), 5: (0, 0, 1), 14: (0, 0, 1), 15: (0, 0, 1), 24: (0, 0, 1), 72: (0, 0, 1),
}  # fmt: skip
_BRAIN = sorted({v for values in STRUCTURES.values() for v in values} - {24})


@dataclass(frozen=True, eq=False)
class Head:
    """One person's label map in compact numbers, cut to the head.

    labels: (D, H, W) uint8, W to the Right, H to Anterior, D to Superior. values: (L,) FreeSurfer number of each
    compact label. spacing: mm along D, H, W. centre: voxel index of the middle of the brain.
    """

    labels: Tensor
    values: Tensor
    spacing: tuple[float, float, float]
    centre: tuple[float, float, float]
    name: str

    @classmethod
    def read(cls, path: Path) -> Head:
        """Read a label map with FreeSurfer's numbers, in any orientation. Raises ScanError when it is none."""
        scan = Scan.read(path)
        raw = np.ascontiguousarray(scan.data[0]).astype(np.int32)
        counts = np.bincount(raw.ravel(), minlength=42) if raw.min() >= 0 else np.zeros(42)
        if scan.frame != "patient" or not counts[2] or not counts[41]:
            raise ScanError(f"{path.name} is no label map of a head: FreeSurfer's labels 2 and 41 are needed in it.")
        values = torch.from_numpy(np.flatnonzero(counts))
        compact = np.zeros(len(counts), dtype=np.uint8)
        compact[values] = np.arange(len(values))
        labels = torch.from_numpy(compact[raw])
        brain = _extent(torch.isin(values, torch.tensor(_BRAIN))[labels.int()])
        head = _extent(labels > 0)
        window = tuple(slice(first, last + 1) for first, last in head)
        w, h, d = scan.spacing
        name = path.name.split(".")[0]
        a, b, c = ((first + last) / 2 - start for (first, last), (start, _) in zip(brain, head, strict=True))
        return cls(labels[window].contiguous(), values, (d, h, w), (a, b, c), name)

    def healthy(self) -> Head:
        """The head without the white matter lesions and small vessels of its own: they become what is nearest."""
        from scipy import ndimage

        own = torch.isin(self.values, torch.tensor(_OWN))[self.labels.int()].numpy()
        nearest = ndimage.distance_transform_edt(own, self.spacing, return_distances=False, return_indices=True)
        return replace(self, labels=self.labels[tuple(torch.from_numpy(nearest).long())])

    def looks(self) -> tuple[Tensor, Tensor]:
        """For `random_contrast`, with one row more, at the end, for what is planted."""
        numbers = [_PAIRS.get(v, v) for v in self.values.tolist()]
        order = {v: i for i, v in enumerate(dict.fromkeys([*numbers, -1]))}
        unknown = (float("nan"),) * 3
        grey = torch.tensor([_GREY.get(v, unknown) for v in [*numbers, -1]])
        return torch.tensor([order[v] for v in [*numbers, -1]]), grey

    def paint(
        self, labels: Tensor, mask: Tensor, means: Tensor, deviations: Tensor, *, planted: Tensor | None = None,
        spacing: Sequence[float], distract: float = 0.0, generator: torch.Generator,
    ) -> tuple[Tensor, list[float]]:  # fmt: skip
        """The picture (D, H, W) of compact `labels`, whose mask values are `mask`, and the brightness of each lesion of
        `planted` (see `medfm.data.lesions.plant`). distract: chance of each of several things that are no lesion."""
        image, uneven = synthesis.paint(labels, means, deviations, generator=generator), float(deviations[-1])
        if distract and torch.rand((), generator=generator) < distract:
            around = (mask == 0) & (labels > 0)
            lesions.spots(image, around, uneven=uneven, spacing=spacing, generator=generator)
        bright = []
        if planted is not None:
            bright = lesions.brighten(
                image, planted, labels, means, uneven=uneven, spacing=spacing, generator=generator
            )
        if distract:
            image = synthesis.disturb(image, spacing=spacing, generator=generator, chance=distract)
        return image * synthesis.bias_field(image.shape, generator=generator), bright

    def wider(self, labels: Tensor, mask: Tensor, wanted: Tensor) -> Tensor:
        """`labels` with a ventricle's label where `wanted`, mask values, has one and `mask` has not."""
        return labels.masked_fill(wanted != mask, self.values.tolist().index(4))

    def targets(self) -> Tensor:
        """The mask value of each compact label (L,) uint8; 0 for what is not told apart."""
        known = set(_BRAIN) | {24}
        values = [_PART_OF.get(v, v) for v in self.values.tolist()]
        return torch.tensor([v if v in known else 0 for v in values], dtype=torch.uint8)

    def sample(
        self, shape: Sequence[int], *, spacing: float, generator: torch.Generator,
        shift: float | Sequence[float] = 8.0, common: float = 0.0,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """One training pair on a window around the brain: image (D, H, W) in [0, 1], mask values (D, H, W) uint8.

        The person is mirrored half of the time, with left and right labels exchanged, which doubles the people.
        shift: mm that the window may lie off the brain's middle, for all axes or each. common: see `random_contrast`.
        """
        size = (spacing,) * 3
        points = synthesis.random_points(shape, spacing=size, generator=generator, shift=shift)
        swap = bool(torch.rand((), generator=generator) < 0.5)
        if swap:
            points[..., 2].neg_()
        labels = synthesis.sample_labels(self.labels, points, spacing=self.spacing, centre=self.centre)
        targets = _exchanged(self.targets()) if swap else self.targets()
        means, deviations = synthesis.random_contrast(
            *self.looks(), generator=generator, related=max(0.5, common), common=common
        )
        if torch.rand((), generator=generator) < 0.12:  # a brain without its head, as after skull stripping
            kept = targets > 0
            if torch.rand((), generator=generator) < 0.5:
                kept = kept & (targets != 24)
            means[:-1], deviations[:-1] = means[:-1] * kept, deviations[:-1] * kept
        mask = targets[labels.long()]
        torch.rand((), generator=generator)  # lesions took it once: the scans that cards were measured on stay the same
        image, _ = self.paint(labels, mask, means, deviations, spacing=size, generator=generator)
        voxel = random_voxel(generator, low=1.0, high=3.0)
        coarse = synthesis.acquire(image, spacing=size, target=voxel, generator=generator)
        image = torch.nn.functional.interpolate(
            coarse[None, None], list(shape), mode="trilinear", align_corners=False
        )[0, 0]  # fmt: skip
        gamma = torch.exp(0.4 * torch.randn((), generator=generator))
        return synthesis.normalise(image).pow_(gamma), mask


def read_heads(paths: Sequence[str]) -> list[Head]:
    """Read label maps. Raises ConfigError when there are none, ScanError for one that cannot be used."""
    if not paths:
        raise ConfigError("found no label maps; give their files, say data.train=[subject_01.nii.gz, ...]")
    return [Head.read(Path(path)) for path in paths]


def value_names() -> dict[int, str]:
    """Mask value -> name, "left hippocampus" or "brain stem"."""
    names = {}
    for name, values in STRUCTURES.items():
        for index, value in enumerate(values):
            names[value] = name if len(values) == 1 else f"{('left', 'right')[index]} {name}"
    return names


def random_voxel(generator: torch.Generator, *, low: float, high: float) -> list[float]:
    """Voxel size in mm of a random protocol: slices of `low` to `high` along any axis, finer within the slice."""
    thick = low + (high - low) * torch.rand((), generator=generator).item()
    fine = low + (min(thick, low * 1.5) - low) * torch.rand((), generator=generator).item()
    voxel = [fine] * 3
    voxel[int(torch.randint(3, (), generator=generator))] = thick
    return voxel


def _extent(mask: Tensor) -> list[tuple[int, int]]:
    """First and last index of a mask (D, H, W) along each axis."""
    lines = [mask.any(2).any(1), mask.any(2).any(0), mask.any(1).any(0)]
    return [(int(line.nonzero()[0]), int(line.nonzero()[-1])) for line in lines]


def _exchanged(targets: Tensor) -> Tensor:
    """The mask values with left and right exchanged."""
    swap = torch.arange(256, dtype=torch.uint8)
    for values in STRUCTURES.values():
        swap[list(values)] = torch.tensor(values[::-1], dtype=torch.uint8)
    return swap[targets.long()]
