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
    if raw.body_part is None and raw.frame == "patient":
        spacing = orientation.spacing_of(affine)
        if raw.units == "HU":
            raw.body_part = _body_part(data[0], spacing)
        elif raw.modality == "MR":
            raw.body_part = "head" if _is_head(data[0], spacing) else None
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
    small, (across, along, _) = _thinned(hu, spacing)
    votes: Counter[str] = Counter()
    for section in small:
        part = _section(section, across * along)
        if part:
            votes[part] += 1
    return votes.most_common(1)[0][0] if votes else None


def _section(section: NDArray, pixel: float) -> str | None:
    """Body part of one axial (H, W) section in HU; `pixel` is its pixel area in mm²."""
    inside = _filled(section > -300)
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


def _is_head(mr: NDArray, spacing: tuple[float, float, float]) -> bool:
    """Whether a (D, H, W) MR is of a head, with its skin or without: it is as large as one, and a dome at its top. A
    limb ends in no dome, a trunk is wider; a slab that does not reach the crown is not told."""
    small, (across, along, up) = _thinned(mr, spacing)
    low, high = np.percentile(small, (1, 99))
    parts = [_filled(section > low + 0.15 * (high - low)) for section in small[::-1]]  # from the top
    areas = np.array([float(part.sum()) for part in parts]) * across * along
    widest = parts[int(areas.argmax())]
    width, length = float(widest.any(0).sum()) * across, float(widest.any(1).sum()) * along
    if not (10_000 < areas.max() < 36_000 and 110 < width < 210 and 140 < length < 260):
        return False
    crown = int((areas > 0.05 * areas.max()).argmax())
    below = crown + round(65 / up)  # where a head is about as wide as it gets
    return bool(below < len(areas) and areas[crown] < 0.65 * areas.max() and areas[below] > 0.8 * areas.max())


def _thinned(data: NDArray, spacing: tuple[float, float, float]) -> tuple[NDArray, tuple[float, float, float]]:
    """At most some 60 to 120 axial sections, of pixels of about 4 mm, and the mm along (W, H, D) of what is left."""
    w, h = (max(1, round(4.0 / mm)) for mm in spacing[:2])
    d = max(1, data.shape[0] // 60)
    return data[::d, ::h, ::w], (spacing[0] * w, spacing[1] * h, spacing[2] * d)


def _filled(section: NDArray) -> NDArray[np.bool_]:
    """A mask (H, W) and what it surrounds: all between its first and last pixel of a row, and likewise of a column."""
    across = np.logical_or.accumulate(section, 1) & np.logical_or.accumulate(section[:, ::-1], 1)[:, ::-1]
    along = np.logical_or.accumulate(section, 0) & np.logical_or.accumulate(section[::-1], 0)[::-1]
    return across & along


def looks_like_labels(data: NDArray) -> bool:
    """Few whole non-negative values, and most neighbours of one value: a label map and not a picture of few greys.

    data: (C, D, H, W).
    """
    values = _sample(data)
    if values.size < 1000 or float(values.min()) < 0:
        return False
    found = np.unique(values)
    if found.size > 120 or not np.all(found == np.round(found)):
        return False
    sections = data[0, :: max(1, data.shape[1] // 16)]
    one, next_one = sections[..., 1:], sections[..., :-1]
    inside = (one > 0) & (next_one > 0)
    return not inside.any() or float(np.mean((one == next_one)[inside])) > 0.5
