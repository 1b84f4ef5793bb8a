"""nnU-Net's planning (Isensee et al., Nature Methods 2021) as pure functions: fingerprint of a data set -> plans.

The rules and constants are those of nnunetv2's default planner; `tests/rooms/test_plan.py` holds both to the same
numbers. Axes are (D, H, W) as stored; a plan lists them coarsest first (`axes`), as nnU-Net transposes its images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfm.errors import DataError

__all__ = ["Configuration", "Fingerprint", "Plan", "fingerprint", "plan", "recipe"]

_WIDTH, _WIDEST = 32, {2: 512, 3: 320}  # features of the first stage; cap of the others
_REFERENCE = {2: 85_000_000, 3: 560_000_000}  # activations of convolutions that a batch of the next line holds in 8 GB
_REFERENCE_BATCH, _REFERENCE_GB = {2: 12, 3: 2}, 8.0
_LEAST_EDGE = 4  # voxels of the coarsest map
_LEAST_BATCH, _MOST_COVERED = 2, 0.05  # of the data set's voxels in one batch
_ANISOTROPIC, _LOW_SHARE, _LOW_STEP = 3.0, 0.25, 1.03
_SAMPLES = 50_000  # foreground voxels of a case that intensities are told from


@dataclass(frozen=True)
class Fingerprint:
    """What planning needs of a data set.

    shapes: (D, H, W) voxels of each case without its empty border; spacings: mm of the same. channels: their names.
    classes: background included. cases: how many will train (default: those listed). kept: median share of the voxels
    left without the border. intensities: of the foreground, one mapping a channel.
    """

    shapes: Sequence[Sequence[int]]
    spacings: Sequence[Sequence[float]]
    channels: Sequence[str]
    classes: int
    cases: int = 0
    kept: float = 1.0
    intensities: Sequence[dict[str, float]] = ()

    def __post_init__(self) -> None:
        if not self.shapes or len(self.shapes) != len(self.spacings):
            raise DataError(
                f"found {len(self.shapes)} shapes and {len(self.spacings)} spacings; expected one of each a case"
            )


@dataclass(frozen=True)
class Configuration:
    """One network and what it is fed. Triples (pairs for "2d") follow `Plan.axes`; spacing is in mm.

    size: of the median case at this spacing. strides, kernels, channels: one a stage. normalise: "ct", "zscore",
    "rescale", "rgb" or "none", one a channel; masked: whether its mean and deviation leave out the empty border.
    """

    spacing: tuple[float, ...]
    size: tuple[float, ...]
    patch: tuple[int, ...]
    batch: int
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    channels: tuple[int, ...]
    normalise: tuple[str, ...]
    masked: tuple[bool, ...]
    activations: int


@dataclass(frozen=True)
class Plan:
    """Configurations by nnU-Net's names (2d, 3d_fullres, 3d_lowres) and the order of axes, coarsest first."""

    axes: tuple[int, int, int]
    configurations: dict[str, Configuration]


def fingerprint(
    cases: Iterable[tuple[NDArray, NDArray, Sequence[float]]],
    *,
    channels: Sequence[str],
    classes: int,
    seed: int = 1234,
) -> Fingerprint:
    """cases: image (C, D, H, W), labels (D, H, W) and spacing (mm along D, H, W) of each; read once, one at a time.

    The empty border (zero in all channels) is cut off first. Raises DataError for labels of another shape.
    """
    from scipy import ndimage

    shapes, spacings, kept, found = [], [], [], []
    random = np.random.default_rng(seed)
    for image, labels, spacing in cases:
        if image.shape[1:] != labels.shape:
            raise DataError(
                f"found an image of {image.shape[1:]} voxels with labels of {labels.shape}; expected the same"
            )
        filled = ndimage.binary_fill_holes((image != 0).any(0))
        box = (ndimage.find_objects(filled.astype(np.uint8)) or [None])[0] or tuple(slice(0, s) for s in labels.shape)
        inside, answer = image[(slice(None), *box)], labels[box]
        shapes.append(tuple(answer.shape))
        spacings.append(tuple(float(s) for s in spacing))
        kept.append(answer.size / labels.size)
        foreground = inside[:, answer > 0]
        few = min(foreground.shape[1], _SAMPLES)
        found.append(foreground[:, random.integers(0, foreground.shape[1], few)] if few else foreground)
    values = np.concatenate(found, 1) if found else np.zeros((len(channels), 0))
    return Fingerprint(
        shapes, spacings, tuple(channels), classes, kept=float(np.median(kept or [1.0])),
        intensities=[_intensities(channel) for channel in values if values.size],
    )  # fmt: skip


def _intensities(values: NDArray) -> dict[str, float]:
    low, median, high = np.percentile(values.astype(np.float64), (0.5, 50, 99.5))
    mean, deviation = values.mean(dtype=np.float64), values.std(dtype=np.float64)
    parts = {"mean": mean, "median": median, "std": deviation, "percentile_00_5": low, "percentile_99_5": high}
    return {name: float(value) for name, value in parts.items()}


def plan(data: Fingerprint, *, memory: float = _REFERENCE_GB) -> Plan:
    """The configurations for a graphics card of `memory` GB (nnU-Net's default: 8).

    "3d_fullres" is left out for pictures; "3d_lowres" is there where a full-resolution patch sees less than a quarter
    of the median case and half its voxels are enough: nnU-Net then also trains a cascade of the two.
    """
    target = _target_spacing(data)
    coarsest = int(np.argmax(target))
    axes = (coarsest, *(a for a in range(3) if a != coarsest))
    sizes = [
        [round(n * s / t) for n, s, t in zip(shape, spacing, target, strict=True)]
        for shape, spacing in zip(data.shapes, data.spacings, strict=True)
    ]
    size, spacing = np.median(sizes, 0)[list(axes)], target[list(axes)]
    voxels = float(np.prod(size) * (data.cases or len(data.shapes)))
    found = {"2d": _configuration(data, spacing[1:], size[1:], voxels, memory)}
    if size[0] != 1:
        full = _configuration(data, spacing, size, voxels, memory)
        found["3d_fullres"] = full
        low = _low_resolution(data, full, spacing, size, memory)
        if low is not None:
            found["3d_lowres"] = low
    return Plan((axes[0], axes[1], axes[2]), found)


def recipe(found: Plan, data: Fingerprint, *, configuration: str, sides: bool = False) -> dict[str, Any]:
    """What `medfm train` takes: the objective of a configuration of `found`, with axes as they are stored.

    sides: there are labels of a left and a right structure, so that no scan is mirrored along W. Of nnU-Net's
    normalisation the mask of the empty border is left out: z-scores are of the whole scan.

    Raises DataError: no such configuration, or pictures that are not cut along D.
    """
    if configuration not in found.configurations:
        raise DataError(f"found no {configuration!r} in the plan; it has {', '.join(found.configurations)}")
    chosen = found.configurations[configuration]
    ndim = len(chosen.patch)
    if ndim == 2 and found.axes[0] != 0:
        raise DataError(
            f"the thickest axis of these scans is {'DHW'[found.axes[0]]}; pictures are cut along D: choose 3d_fullres"
        )

    def stored(values: Sequence[float], first: float) -> list[Any]:
        by_axis = dict(zip(found.axes, values if ndim == 3 else (first, *values), strict=True))
        return [by_axis[axis] for axis in range(3)]

    prepare: dict[str, Any] = {"spacing": stored(chosen.spacing, 0.0), "intensity": "zscore"}
    if chosen.normalise[0] == "ct":
        told = data.intensities[0]
        clip = [told["percentile_00_5"], told["percentile_99_5"]]
        prepare |= {"intensity": "ct", "clip": clip, "mean": told["mean"], "std": told["std"]}
    kernels = [stored(kernel, 1) for kernel in chosen.kernels]
    style = {"ndim": ndim, "act": "leaky"}
    patch = stored(chosen.patch, 1)
    return {
        "name": "supervised",
        "model": {
            "encoder": {
                "name": "conv", **style, "channels": list(chosen.channels), "convs": 2, "down": "stride",
                "strides": [stored(stride, 1) for stride in chosen.strides], "kernels": kernels,
            },
            "head": {"name": "segment", **style, "kernels": kernels[:-1], "deep": max(0, len(kernels) - 3)},
        },
        "prepare": prepare, "patch": patch, "tile": patch, "batch": chosen.batch, "foreground": 0.33,
        "flips": {2: "H", 3: "DH"}[ndim] + ("" if sides else "W"),
    }  # fmt: skip


def _target_spacing(data: Fingerprint) -> NDArray[np.float64]:
    """The median; on an axis over three times coarser with three times fewer voxels, the 10th percentile."""
    spacings = np.array(data.spacings, float)
    target, size = np.median(spacings, 0), np.median(np.array(data.shapes, float), 0)
    worst = int(np.argmax(target))
    others = [a for a in range(3) if a != worst]
    coarse = target[worst] > _ANISOTROPIC * target[others].max()
    if coarse and size[worst] * _ANISOTROPIC < size[others].min():
        tenth = float(np.percentile(spacings[:, worst], 10))
        floor = float(target[others].max())
        target[worst] = tenth if tenth >= floor else floor + 1e-5  # it stays the coarsest axis
    return target


def _low_resolution(
    data: Fingerprint, full: Configuration, spacing: NDArray, size: NDArray, memory: float
) -> Configuration | None:
    """Coarser in steps of 3 %, the fine axes first, until a patch sees a quarter of the median case."""
    patch, voxels, coarser, found = float(np.prod(full.patch)), float(np.prod(size)), spacing.copy(), None
    while patch / voxels < _LOW_SHARE:
        fine = coarser.max() / coarser > 2
        coarser[fine if fine.any() else slice(None)] *= _LOW_STEP
        small = spacing / coarser * size
        voxels = float(np.prod(small))
        cases = data.cases or len(data.shapes)
        found = _configuration(data, coarser, np.round(small), voxels * cases, memory)
        patch = float(np.prod(found.patch))
    return found if found is not None and np.prod(size) / voxels >= 2 else None


def _configuration(data: Fingerprint, spacing: NDArray, size: NDArray, voxels: float, memory: float) -> Configuration:
    """Start from a patch of 256^3 (2048^2) voxels' worth of cube, no larger than the median case; shrink to fit."""
    ndim = len(spacing)
    edges = 1 / spacing * ((256.0**3 if ndim == 3 else 2048.0**2) * np.prod(spacing)) ** (1 / ndim)
    strides, kernels, patch = _topology(spacing, np.minimum(np.round(edges), size))
    most = _REFERENCE[ndim] * memory / _REFERENCE_GB
    fits = most * _REFERENCE_BATCH[ndim] / _LEAST_BATCH  # a batch of two must
    while (count := _activations(patch, strides, data.classes)) > fits:
        axis = int(np.argsort([p / s for p, s in zip(patch, size, strict=True)])[-1])
        smaller = list(patch)
        smaller[axis] -= int(np.prod([s[axis] for s in strides]))
        step = _topology(spacing, smaller)[0]  # a smaller patch may want fewer stages, so a smaller step
        patch[axis] -= int(np.prod([s[axis] for s in step]))
        strides, kernels, patch = _topology(spacing, patch)
    batch = round(most / count * _REFERENCE_BATCH[ndim])
    batch = max(min(batch, round(voxels * _MOST_COVERED / float(np.prod(patch)))), _LEAST_BATCH)
    schemes = tuple(_scheme(name) for name in data.channels)
    return Configuration(
        spacing=tuple(float(s) for s in spacing),
        size=tuple(float(s) for s in size),
        patch=tuple(patch),
        batch=batch,
        strides=tuple(strides),
        kernels=tuple(kernels),
        channels=_channels(ndim, len(strides)),
        normalise=schemes,
        masked=tuple(scheme == "zscore" and data.kept < 0.75 for scheme in schemes),
        activations=count,
    )


def _topology(
    spacing: NDArray, patch: Sequence[float] | NDArray
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]], list[int]]:
    """Strides and kernels of every stage, and the patch rounded up to whole strides.

    An axis is halved while it has 8 voxels and lies within twice the finest spacing left; it gets kernels of 3 from
    the stage where its spacing first does.
    """
    ndim = len(patch)
    now, edge, kernel = [float(s) for s in spacing], [float(p) for p in patch], [1] * ndim
    strides, kernels = [(1,) * ndim], []
    while True:
        able = [a for a in range(ndim) if edge[a] >= 2 * _LEAST_EDGE]
        able = [a for a in able if now[a] / min(now[b] for b in able) < 2]
        if not able or (len(able) == 1 and edge[able[0]] < 3 * _LEAST_EDGE):
            break
        kernel = [3 if k == 3 or s / min(now) < 2 else 1 for k, s in zip(kernel, now, strict=True)]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if a in able else 1 for a in range(ndim)))
        for axis in able:
            now[axis], edge[axis] = now[axis] * 2, float(np.ceil(edge[axis] / 2))
    kernels.append((3,) * ndim)
    total = np.prod(strides, 0)
    return strides, kernels, [int(-(-p // t) * t) for p, t in zip(patch, total, strict=True)]


def _channels(ndim: int, stages: int) -> tuple[int, ...]:
    return tuple(min(_WIDEST[ndim], _WIDTH * 2**stage) for stage in range(stages))


def _activations(patch: Sequence[int], strides: Sequence[tuple[int, ...]], classes: int) -> int:
    """Values that the convolutions of a plain U-Net put out for one patch: nnU-Net's measure of memory.

    Two convolutions a stage on both sides, the transposed ones, and the logits.
    """
    channels = _channels(len(patch), len(strides))
    sizes, edge = [], np.array(patch)
    for stride in strides:
        edge = edge // np.array(stride)
        sizes.append(int(np.prod(edge)))
    down = sum(2 * c * n for c, n in zip(channels, sizes, strict=True))
    up = sum(3 * c * n for c, n in zip(channels[:-1], sizes[:-1], strict=True))
    return down + up + classes * sizes[0]


_SCHEMES = {
    "ct": "ct", "nonorm": "none", "zscore": "zscore", "rescale_to_0_1": "rescale", "rgb_to_0_1": "rgb",
}  # fmt: skip


def _scheme(channel: str) -> str:
    """By the channel's name, as nnU-Net does: CT by the fingerprint's intensities, anything unknown by z-score."""
    return _SCHEMES.get(channel.casefold(), "zscore")
