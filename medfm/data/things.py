"""Things to be marked: every label of every slice with its box, a click on it, and what the filled box would give."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm.data.volumes import VolumeCase

__all__ = ["Thing", "clicked", "filled", "labels_within", "things_of"]


class Thing(NamedTuple):
    """All pixels of one label in one slice of a case on a model's grid."""

    case: VolumeCase
    slice: int
    label: str
    value: int

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(H, W)."""
        drawn: NDArray[np.bool_] = self.case.labels[self.slice].numpy() == self.value
        return drawn


def things_of(cases: Iterable[VolumeCase], labels: Sequence[str], *, least: int) -> list[Thing]:
    """Every label of every slice that has at least `least` pixels."""
    return [
        Thing(case, depth, labels[value - 1], value)
        for case in cases
        for depth, drawn in enumerate(case.labels.numpy())
        for value in labels_within(drawn, least=least)
    ]


def labels_within(drawn: NDArray[np.uint8], *, least: int) -> list[int]:
    """The values above 0 that have at least `least` pixels in a slice (H, W)."""
    counts = np.bincount(drawn.ravel(), minlength=1)
    return [value for value in np.flatnonzero(counts >= least).tolist() if value]


def clicked(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """Where a person would click: the pixel of a mask (H, W) that is farthest from its edge, as (x, y) shares."""
    from scipy import ndimage

    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), mask.shape)
    return (float(column) + 0.5) / mask.shape[1], (float(row) + 0.5) / mask.shape[0]


def filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What a box alone would give: all of it."""
    full = np.zeros_like(mask)
    (rows,), (columns,) = np.nonzero(mask.any(1)), np.nonzero(mask.any(0))
    full[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return full
