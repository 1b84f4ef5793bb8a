"""Lungs in CT, told by their air: Hounsfield units know them better than a model that has seen few chests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medfm.predict.segmenting import volumes
from medfm.scan import Finding, Mask, Measurement, Scan, Sentence
from medfm.scan.report import Side

__all__ = ["describe", "lungs"]

_AIR = -400.0  # HU, between lung (-850) and soft tissue (0), after Hu, Hoffman, Reinhardt 2001
_COARSE = 3.0  # mm: the sides are told apart on a coarse grid
_DEEP = 6.0  # mm from any tissue: in there bronchi do not join the lungs to each other or to the windpipe
_NEAR = 11.0  # mm around that: the rest of the lung
_LEAST = 100.0  # ml of air that deep: less is a windpipe or gas of the bowel
_SMALLER = 0.15  # of the larger lung's air: the least of the other


def lungs(scan: Scan) -> Mask | None:
    """The air-filled part of each lung of a CT volume, left 1 and right 2; None where there is no such air.

    What has no air (a collapse, a consolidation, a mass at the wall) is missing, vessels within are included.
    """
    from scipy import ndimage

    if scan.units != "HU" or scan.frame != "patient" or min(scan.data.shape[1:]) < 8:
        return None
    values, spacing = scan.data[0], tuple(reversed(scan.spacing))
    step = [max(1, round(_COARSE / mm)) for mm in spacing]
    mm = [s * n for s, n in zip(spacing, step, strict=True)]
    air = values[:: step[0], :: step[1], :: step[2]] < _AIR
    parts, _ = ndimage.label(air)
    rim = [np.unique(np.take(parts, end, axis)) for axis in (1, 2) for end in (0, -1)]  # around the patient
    air &= ~np.isin(parts, np.concatenate(rim))
    deep, _ = ndimage.label(ndimage.distance_transform_edt(air, sampling=mm) > _DEEP)
    millilitres = np.bincount(deep.ravel())[1:] * float(np.prod(mm)) / 1000
    kept = [1 + int(i) for i in np.argsort(-millilitres)[:2] if millilitres[i] > _LEAST]
    kept = [part for part in kept if millilitres[part - 1] > _SMALLER * millilitres[kept[0] - 1]]
    if not kept:
        return None
    away, nearest = ndimage.distance_transform_edt(~np.isin(deep, kept), sampling=mm, return_indices=True)
    coarse = np.zeros(air.shape, np.uint8)
    sides = _sides([deep == part for part in kept], ~air, scan, step)
    for part, value in zip(kept, sides, strict=True):
        coarse[(away <= _NEAR) & (deep[tuple(nearest)] == part)] = value
    near = coarse.repeat(step[0], 0).repeat(step[1], 1).repeat(step[2], 2)[tuple(map(slice, values.shape))]
    array = np.where(values < _AIR, near, np.uint8(0))
    for layer in array:  # vessels
        for value in set(sides):
            layer[ndimage.binary_fill_holes(layer == value) & (layer == 0)] = value
    names = {1: "Left Lung", 2: "Right Lung", 3: "Lungs"}
    return scan.mask(array, {value: names[value] for value in sorted(set(sides))})


def describe(scan: Scan) -> list[Sentence]:
    """The air of the lungs of a CT volume in millilitres, left beside right, with their mask; nothing where none is."""
    mask = lungs(scan)
    if mask is None:
        return []
    ml = volumes(mask)
    known: dict[str, Side | None] = {"Left Lung": "left", "Right Lung": "right", "Lungs": None}
    told = ", ".join(f"{size:.0f} ml{f' {side}' if (side := known[name]) else ''}" for name, size in ml.items())
    found = tuple(
        Finding("in view", "lung", known[name], evidence=(Measurement(f"{name}, air and vessels", size, "ml"),))
        for name, size in ml.items()
    )
    text = f"Lungs, told by their air: {told} of air and vessels; what has no air is not in these."
    return [Sentence(text, found, (mask,))]


def _sides(lungs: list[NDArray], tissue: NDArray, scan: Scan, step: list[int]) -> list[int]:
    """1 left, 2 right of the middle of the body; 3 for one piece that lies on both sides."""
    right = scan.affine[0, :3] * list(reversed(step))  # of a step along w, h, d, in RAS mm

    def middle(inside: NDArray) -> tuple[float, float]:
        d, h, w = np.nonzero(inside)
        place = w * right[0] + h * right[1] + d * right[2]
        return float(place.mean()), float(place.std())

    if len(lungs) == 2:
        first, second = (middle(one)[0] for one in lungs)
        return [2, 1] if first > second else [1, 2]
    (place, spread), (centre, _) = middle(lungs[0]), middle(tissue)
    return [3 if abs(place - centre) < spread / 2 else 2 if place > centre else 1]
