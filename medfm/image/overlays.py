"""Two pictures on one grid set against each other: a checkerboard of both, and their difference in colour."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["checkerboard", "difference"]

Picture = NDArray[np.uint8]


def checkerboard(a: Picture, b: Picture, *, squares: int = 8) -> Picture:
    """(rows, columns, 3): squares of `a` and `b` in turn, `squares` along the longer side; edges should run on."""
    side = max(1, max(a.shape[:2]) // squares)
    rows, columns = np.indices(a.shape[:2])
    mine = (rows // side + columns // side) % 2 == 0
    return np.where(mine[..., None], a, b)


def difference(a: Picture, b: Picture, *, known: NDArray[np.bool_] | None = None) -> Picture:
    """(rows, columns, 3): grey where both are alike, red where `a` is brighter, blue where `b` is.

    known: (rows, columns), where there is something to compare; the rest is black.
    """
    gap = a.astype(np.int16).mean(-1) - b.astype(np.int16).mean(-1)
    grey = 128 - np.abs(gap) / 2
    rgb = np.stack([grey + gap.clip(0) / 2, grey, grey - gap.clip(max=0) / 2], -1)
    if known is not None:
        rgb[~known] = 0
    return rgb.clip(0, 255).round().astype(np.uint8)
