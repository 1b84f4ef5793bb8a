"""Scans as slices or slabs of one size, for reconstruction; held out are whole scans, or a range far from the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medfm.config import check_keys
from medfm.data.sets import stem
from medfm.errors import DataError
from medfm.image.intensity import robust_range
from medfm.scan import Scan

__all__ = ["SliceCase", "both_slices", "check_hounsfield", "fitted", "has_tissue", "read_slices", "scaled", "signed"]

_AIR = -1000.0  # HU
_EMPTY = 0.02  # of a slice's pixels: with less tissue there is nothing to reconstruct


@dataclass(frozen=True)
class SliceCase:
    """One slice or slab: image (1, D, S, S), HU of CT or [0, 1]; pixel, thickness: mm; name: scan and first slice."""

    name: str
    scan: str
    image: Tensor
    pixel: float
    thickness: float


def both_slices(data: dict[str, Any], *, hounsfield: bool, depth: int = 1) -> tuple[list[SliceCase], list[SliceCase]]:
    """Cases to train on, and held-out ones, of a recipe's `data`.

    `train`: scans, files or folders. `validate`: further scans, used whole; without it `hold`, the range of slices (two
    shares of the height, say [0.4, 0.6]) that is held out of every scan, with `gap` mm on both sides not used at all.
    `size`: pixels of the square that slices are brought to; `plane`: axial, coronal, sagittal or null (acquired).
    `every`: take every n-th slice. depth: slices of a slab. Raises DataError.
    """
    check_keys("data", data, {"train", "validate", "hold", "gap", "size", "plane", "every"})
    hold, gap = data.get("hold", [0.4, 0.6]), data.get("gap", 10.0)
    train: list[SliceCase] = []
    held: list[SliceCase] = []
    for part, paths in ((train, data["train"]), (held, data.get("validate", []))):
        for path in [paths] if isinstance(paths, str) else paths:
            ranges = None if "validate" in data else (hold[0], hold[1], gap)
            inside, outside = _read(Path(path), data, hounsfield=hounsfield, depth=depth, hold=ranges)
            part += outside
            held += inside
    if not train or not held:
        raise DataError(f"{len(train)} slices to train on and {len(held)} held out; check data.train, hold and gap")
    return train, held


def read_slices(
    paths: Sequence[Path], *, hounsfield: bool, size: int, plane: str | None = "axial", every: int = 1, depth: int = 1,
    held_out: tuple[float, float] | None = None,
) -> list[SliceCase]:  # fmt: skip
    """All slices of scans, or those between two shares of the height."""
    data = {"size": size, "plane": plane, "every": every}
    hold = None if held_out is None else (*held_out, 0.0)
    cases = []
    for path in paths:
        inside, outside = _read(path, data, hounsfield=hounsfield, depth=depth, hold=hold)
        cases += outside if hold is None else inside
    return cases


def _read(
    path: Path, data: dict[str, Any], *, hounsfield: bool, depth: int, hold: tuple[float, float, float] | None
) -> tuple[list[SliceCase], list[SliceCase]]:
    """Cases of one scan inside the held-out range, and those outside of it and its gap."""
    scan = Scan.read(path)
    check_hounsfield(scan, path.name, hounsfield=hounsfield)
    array, (thickness, row, _) = scan.slices(data.get("plane", "axial"))
    volume, pixel = fitted(array[:1].astype(np.float32), data.get("size", 128), row, hounsfield=hounsfield)
    count, every = volume.shape[1], data.get("every", 1)
    low, high, gap = hold or (0.0, 0.0, 0.0)
    first, last, margin = low * count, high * count, gap / thickness
    inside, outside = [], []
    name = stem(path)
    for start in range(0, count - depth + 1, max(every, depth)):
        image = volume[:, start : start + depth].clone()
        if not has_tissue(image, hounsfield=hounsfield):
            continue
        case = SliceCase(f"{name}:{start}", name, image, pixel, thickness)
        if hold is not None and start >= first and start + depth <= last:
            inside.append(case)
        elif hold is None or start + depth <= first - margin or start >= last + margin:
            outside.append(case)
    return inside, outside


def check_hounsfield(scan: Scan, name: str, *, hounsfield: bool) -> None:
    """Raise DataError where HU are needed and the values of `scan` are none."""
    if hounsfield and scan.units != "HU" and scan.data.min() > -500:
        raise DataError(f"{name}: its values are no HU (the lowest is {scan.data.min():.0f}); CT is needed")


def has_tissue(image: Tensor, *, hounsfield: bool) -> bool:
    """Whether a slice or slab, in HU or [0, 1], holds more than air."""
    return bool((image > (-500 if hounsfield else 0.1)).float().mean() >= _EMPTY)


def fitted(array: np.ndarray, size: int, row: float, *, hounsfield: bool) -> tuple[Tensor, float]:
    """(1, N, H, W) -> (1, N, size, size), the longer side filling it, HU or [0, 1], and the mm of its pixels."""
    if not hounsfield:
        array = scaled(array)
    x = torch.from_numpy(np.ascontiguousarray(array))
    h, w = x.shape[2:]
    scale = size / max(h, w)
    new = (max(1, round(h * scale)), max(1, round(w * scale)))
    if new != (h, w):
        x = F.interpolate(x, new, mode="bilinear", antialias=scale < 1, align_corners=False)
    top, left = (size - new[0]) // 2, (size - new[1]) // 2
    pads = (left, size - new[1] - left, top, size - new[0] - top)
    return F.pad(x, pads, value=_AIR if hounsfield else 0.0), row / scale


def scaled(array: np.ndarray) -> np.ndarray:
    """Values without a unit, most of them, in [0, 1]."""
    low, high = robust_range(array, (0.5, 99.9))
    within: np.ndarray = np.clip((array - low) / (high - low), 0, 1)
    return within


def signed(x: Tensor, *, hounsfield: bool) -> Tensor:
    """What `fitted` gives, HU (-1000 to 1000) or [0, 1], in [-1, 1], as networks that make pictures want it."""
    return (x / 1000 if hounsfield else 2 * x - 1).clamp(-1, 1)
