"""Intensities: windows of CT, the range of those without a unit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CT_WINDOWS", "Windows", "coloured", "robust_range", "windowed"]

Windows = tuple[tuple[float, float], ...]
CT_WINDOWS: Windows = ((-600, 1500), (50, 400), (400, 1800))  # (level, width) in HU: lung, soft tissue, bone

_SAMPLE = 2_000_000  # voxels looked at


def robust_range(array: NDArray, percentiles: tuple[float, float] = (0.5, 99.5)) -> tuple[float, float]:
    """Two percentiles of the values, evenly sampled; the upper is above the lower even in a constant array."""
    values = array.reshape(-1)
    low, high = np.percentile(values[:: max(1, values.size // _SAMPLE)].astype(np.float32), percentiles)
    return float(low), float(high if high > low else low + 1)


def windowed(x: Tensor, windows: Sequence[tuple[float, float]], *, dim: int) -> Tensor:
    """HU with one channel along `dim` -> a channel for each window (level, width), from 0 to 1."""
    import torch

    return torch.cat([(x - (level - width / 2)) / width for level, width in windows], dim).clamp_(0, 1)


def coloured(array: NDArray) -> bool:
    """Whether a picture (C, D, H, W) has three channels that differ: a photograph, not a grey scan kept as RGB."""
    return len(array) == 3 and bool((array[0] != array[1]).any() or (array[1] != array[2]).any())
