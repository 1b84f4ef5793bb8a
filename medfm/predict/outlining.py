"""A coarse outline of a structure from the eye's own map, for organs that no segmentation model has been trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medfm.errors import UnknownName
from medfm.predict.places import inside
from medfm.scan import Mask, Scan
from medfm.scan.orientation import display

if TYPE_CHECKING:
    from medfm.model import MedFM

__all__ = ["outline"]


def outline(model: MedFM, scan: Scan, structures: list[str], *, plane: str | None = None) -> Mask | None:
    """The voxels of `scan` in which the eye sees each of `structures`, values 1, 2, ...; None where it sees none.

    The map has one cell for 8 to 16 prepared pixels, so edges and millilitres are rough. Of structures that overlap the
    more probable one is kept. Raises UnknownName: the eye does not know a structure.
    """
    known = list(model.vision.structures.labels)
    if unknown := [name for name in structures if name not in known]:
        raise UnknownName(f"this model's eye does not know {', '.join(unknown)}; it knows: {', '.join(sorted(known))}")
    reading = model.read(scan, plane=plane)
    _, depth, height, width = scan.data.shape
    labels = np.zeros((1, depth, height, width), np.uint8)
    best = np.full(labels.shape, 0.5, np.float32)
    shown, likeliest = (_displayed(scan, values, reading.prepared.plane)[0] for values in (labels, best))
    prepared = reading.prepared
    cell = prepared.x.shape[-1] / reading.logits.shape[-1]
    rows, columns = (
        _weights(count, prepared.scale, offset, cell, reading.logits.shape[-1])
        for count, offset in zip(shown.shape[1:], prepared.offset, strict=True)
    )
    for value, name in enumerate(structures, 1):
        probability = inside(reading, reading.logits[0, known.index(name)].sigmoid().numpy())
        for index in range(len(shown)):  # slice by slice: a volume of floats at full size would not fit
            slab = probability[min(int(index / prepared.slab), len(probability) - 1)]
            if slab.max() <= 0.5:
                continue
            fine = rows @ slab @ columns.T
            more = fine > likeliest[index]
            shown[index][more] = value
            likeliest[index][more] = fine[more]
    return scan.mask(labels[0], dict(enumerate(structures, 1))) if labels.any() else None


def _displayed(scan: Scan, values: NDArray, plane: str | None) -> NDArray:
    """The view (1, N, rows, columns) of an array on the scan's grid in the order in which the model read it."""
    if scan.frame == "image":
        return values
    return display(values, scan.spacing, plane or "axial")[0]


def _weights(count: int, scale: float, offset: int, cell: float, cells: int) -> NDArray[np.float32]:
    """(count, cells): linear interpolation of a map at the middle of each of `count` source pixels."""
    place = ((np.arange(count) + 0.5) * scale + offset) / cell - 0.5
    near = np.clip(place, 0, cells - 1)[:, None]
    return np.clip(1 - np.abs(near - np.arange(cells)[None]), 0, 1).astype(np.float32)
