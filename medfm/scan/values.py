"""Voxel values: rescaled once, kept in lean types, made finite, and grey told from colour."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medfm.errors import ScanError

__all__ = ["colour_or_grey", "finite", "lean", "rescale"]


def rescale(values: NDArray, slope: float, intercept: float) -> NDArray:
    """slope * values + intercept, in integers wide enough when both are whole, else in float32."""
    if slope == 1 and intercept == 0:
        return values
    if values.dtype.kind in "iu" and float(slope).is_integer() and float(intercept).is_integer():
        by, add, low, high = int(slope), int(intercept), int(values.min()), int(values.max())
        reached = (low, high, by, add, low * by, high * by, low * by + add, high * by + add)
        for wide in (np.int16, np.int32, np.int64):
            limits = np.iinfo(wide)
            if limits.min <= min(reached) and max(reached) <= limits.max:
                return np.asarray(np.multiply(values, by, dtype=wide, casting="unsafe") + wide(add))
    return (values.astype(np.float64) * slope + intercept).astype(np.float32)


def lean(data: NDArray) -> NDArray:
    """Keep the values in the smallest of uint8 (if already), int16, uint16, int32; else float32."""
    kind = data.dtype
    if kind == np.bool_:
        return data.astype(np.uint8)
    if kind in (np.uint8, np.int16) or data.size == 0:
        return data if kind.isnative else data.astype(kind.newbyteorder("="))
    if kind.kind not in "iu":
        return data.astype(np.float32, copy=False)
    low, high = int(data.min()), int(data.max())
    for target in (np.int16, np.uint16, np.int32):
        limits = np.iinfo(target)
        if limits.min <= low and high <= limits.max:
            return data.astype(target, copy=False)
    return data.astype(np.float32)


def finite(data: NDArray, notes: list[str], shown: str) -> NDArray:
    """Replace NaN and infinities by the lowest finite value, said in a note; ScanError when nothing is finite."""
    if data.dtype.kind != "f":
        return data
    good = np.isfinite(data)
    bad = data.size - int(np.count_nonzero(good))
    if bad == 0:
        return data
    if bad == data.size:
        raise ScanError(f"{shown}: no voxel has a finite value (all are NaN or infinite); the file is damaged.")
    lowest = data[good].min()
    notes.append(f"{bad} voxels were NaN or infinite and now hold the lowest finite value, {lowest:g}.")
    return np.where(good, data, lowest)


def colour_or_grey(array: NDArray) -> NDArray:
    """Turn (H, W) or (H, W, 3) into (C, H, W); RGB whose channels agree within 2 of 255 everywhere is grey."""
    if array.ndim == 2:
        return array[None]
    red, green, blue = (array[..., channel].astype(np.int16) for channel in range(3))
    if max(int(np.abs(red - green).max()), int(np.abs(blue - green).max())) <= 2:
        return np.ascontiguousarray(array[..., 1])[None]
    return np.moveaxis(array, -1, 0)
