"""Modality, body part and plane where no header gives them: a few plain rules, each marked as an estimate."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from medfm.scan import orientation
from medfm.scan.raw import RawScan

__all__ = ["complete", "looks_like_hu", "looks_like_labels"]

_SAMPLE = 2_000_000  # voxels looked at; a regular sample of them is enough for shares and extremes


def complete(raw: RawScan, data: NDArray, affine: NDArray[np.float64]) -> None:
    """Fill in what the reader left open, from canonical (C, D, H, W) data, and mark it in `raw.estimated`."""
    colour = data.shape[0] == 3
    if raw.modality == "UNKNOWN":
        raw.modality = _modality(raw, data)
        if raw.modality != "UNKNOWN":
            raw.estimated.add("modality")
    if raw.units is None:
        raw.units = "RGB" if colour else "HU" if raw.modality == "CT" and looks_like_hu(data) else "a.u."
        if raw.units == "HU":
            raw.estimated.add("units")
    if raw.body_part is None and raw.frame == "patient" and raw.units == "HU":
        raw.body_part = _body_part(data[0], orientation.spacing_of(affine))
        if raw.body_part is not None:
            raw.estimated.add("body_part")
    if raw.plane is None and raw.frame == "patient":
        _, d, h, w = data.shape
        raw.plane = orientation.best_plane((w, h, d), orientation.spacing_of(affine))
        raw.estimated.add("plane")


def _modality(raw: RawScan, data: NDArray) -> str:
    """PHOTO for colour, CT for a HU range, MR for another volume in patient space; a grey picture stays UNKNOWN."""
    if data.shape[0] == 3:
        return "PHOTO"
    if raw.frame != "patient":
        return "UNKNOWN"
    if looks_like_hu(data):
        return "CT"
    return "UNKNOWN" if looks_like_labels(data) else "MR"


def _sample(data: NDArray) -> NDArray:
    flat = data.reshape(-1)
    return flat[:: max(1, flat.size // _SAMPLE)]


def looks_like_hu(data: NDArray) -> bool:
    """Air, soft tissue and denser matter as in Hounsfield units: lowest value -900 to -4096, at least 5 % of the
    voxels between -200 and 300, and none above 32000."""
    values = _sample(data)
    low, high = float(values.min()), float(values.max())
    soft = float(np.mean((values > -200) & (values < 300)))
    return -4096 <= low <= -900 and 100 < high < 32_000 and soft >= 0.05


def _body_part(hu: NDArray, spacing: tuple[float, float, float]) -> str | None:
    """Body part of a (D, H, W) CT by what most axial slices show: lungs -> chest; a narrow section with much bone ->
    head; a wide section without lungs -> abdomen. None where no slice is large enough to tell."""
    steps = [max(1, round(4.0 / s)) for s in spacing]  # about 4 mm a voxel is enough
    small = hu[:: max(1, hu.shape[0] // 60), :: steps[1], :: steps[0]]
    pixel = spacing[1] * steps[1] * spacing[0] * steps[0]
    votes: Counter[str] = Counter()
    for section in small:
        part = _section(section, pixel)
        if part:
            votes[part] += 1
    return votes.most_common(1)[0][0] if votes else None


def _section(section: NDArray, pixel: float) -> str | None:
    """Body part of one axial (H, W) section in HU; `pixel` is its pixel area in mm²."""
    tissue = section > -300
    # everything between the first and the last tissue pixel of a row, and likewise of a column
    across = np.logical_or.accumulate(tissue, 1) & np.logical_or.accumulate(tissue[:, ::-1], 1)[:, ::-1]
    along = np.logical_or.accumulate(tissue, 0) & np.logical_or.accumulate(tissue[::-1], 0)[::-1]
    inside = across & along
    area = float(inside.sum()) * pixel
    if area < 5_000:
        return None
    lung = float(((section > -940) & (section < -650) & inside).sum()) * pixel
    if lung > 0.12 * area and lung > 5_000:
        return "chest"
    bone = float((section > 300).sum()) * pixel
    if area < 35_000:
        return "head" if bone > 0.08 * area else None
    return "abdomen"


def looks_like_labels(data: NDArray) -> bool:
    """Few whole non-negative values: a label map and not a picture."""
    values = _sample(data)
    if values.size < 1000 or float(values.min()) < 0:
        return False
    found = np.unique(values)
    return found.size <= 120 and bool(np.all(found == np.round(found)))
