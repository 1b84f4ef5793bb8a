"""The range of intensities without a unit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["coloured", "robust_range"]

_SAMPLE = 2_000_000  # voxels looked at


def robust_range(array: NDArray, percentiles: tuple[float, float] = (0.5, 99.5)) -> tuple[float, float]:
    """Two percentiles of the values, evenly sampled; the upper is above the lower even in a constant array."""
    values = array.reshape(-1)
    low, high = np.percentile(values[:: max(1, values.size // _SAMPLE)].astype(np.float32), percentiles)
    return float(low), float(high if high > low else low + 1)


def coloured(array: NDArray) -> bool:
    """Whether a picture (C, D, H, W) has three channels that differ: a photograph, not a grey scan kept as RGB."""
    return len(array) == 3 and bool((array[0] != array[1]).any() or (array[1] != array[2]).any())
