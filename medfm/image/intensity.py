"""Intensities: windows of CT, the range of those without a unit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CT_WINDOWS", "GREY_WINDOWS", "Windows", "coloured", "robust_range", "windowed"]

Windows = tuple[tuple[float, float], ...]
CT_WINDOWS: Windows = ((-600, 1500), (50, 400), (400, 1800))  # (level, width) in HU: lung, soft tissue, bone

GREY_WINDOWS: Windows = ((-500, 1500), (50, 400))  # lungs, all else; see `windowed`

_SAMPLE = 2_000_000  # voxels looked at
_LUNGS = 0.08  # of a section of the body: the least that is lung where it shows lungs


def robust_range(array: NDArray, percentiles: tuple[float, float] = (0.5, 99.5)) -> tuple[float, float]:
    """Two percentiles of the values, evenly sampled; the upper is above the lower even in a constant array, also of
    numbers so large that one more is the same number in single precision."""
    values = array.reshape(-1)
    low, high = np.percentile(values[:: max(1, values.size // _SAMPLE)].astype(np.float32), percentiles)
    return float(low), float(high if high > low else low + max(1, 1e-3 * abs(low)))


def windowed(x: Tensor, windows: Windows, *, dim: int) -> Tensor:
    """HU (..., H, W) with one channel along `dim` -> three channels from 0 to 1.

    windows: three (level, width), one a channel; or two, for grey: the first for slices with lungs in them, the second
    for all others, as the pictures of teaching sets show CT.
    """
    import torch

    shown = [((x - (level - width / 2)) / width).clamp(0, 1) for level, width in windows]
    if len(windows) == 3:
        return torch.cat(shown, dim)
    step = max(1, x.shape[-1] // 96)  # how much of a section is lung does not take all of its pixels
    coarse = x[..., ::step, ::step]
    inside = _body(coarse)
    lung = ((coarse > -940) & (coarse < -650) & inside).sum((-2, -1), keepdim=True)
    lungs, other = shown
    grey = torch.where(lung > _LUNGS * inside.sum((-2, -1), keepdim=True), lungs, other)
    return torch.cat([grey] * 3, dim)


def _body(x: Tensor) -> Tensor:
    """The body and all between its edges in sections (..., H, W) in HU; a table and its foam are too thin to count."""
    import torch.nn.functional as F

    size = x.shape[-1] // 40 * 2 + 1
    tissue = F.avg_pool2d((x > -300).float().flatten(0, -3)[:, None], size, 1, size // 2, count_include_pad=False)
    thick = (tissue > 0.8).view(x.shape).byte()

    def between(axis: int) -> Tensor:
        return thick.cummax(axis).values & thick.flip(axis).cummax(axis).values.flip(axis)

    return (between(-1) & between(-2)).bool()


def coloured(array: NDArray) -> bool:
    """Whether a picture (C, D, H, W) has three channels that differ: a photograph, not a grey scan kept as RGB."""
    return len(array) == 3 and bool((array[0] != array[1]).any() or (array[1] != array[2]).any())
