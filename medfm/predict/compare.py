"""What changed since a prior scan or report: lesions that are new, gone, still there, larger or smaller."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medfm.language.vocabulary import LESIONS
from medfm.language.wording import write
from medfm.scan import Alignment, Box, Finding, Mask, Sentence

__all__ = ["compare", "growth"]

_MM, _ML, _SHARE = 3.0, 0.1, 0.2  # less than this in mm or ml, or as a share, is within the coarseness of the outlines
_APART = 20.0  # mm between the middles of two boxes of one lesion, or half the size of the larger if that is more


def compare(now: Sequence[Finding], before: Sequence[Finding], *, way: Alignment | None = None) -> list[Sentence]:
    """Sentences on each lesion of either; volumes are compared where both are measured, else the largest extents.

    Sides are matched where both are told; a lesion told without a side matches any. way: from the scan of `now` to that
    of `before`, as registering the prior finds it; then lesions with a mask or a box in mm are one only if they lie in
    one place.
    """
    old = [f for f in before if f.present and f.finding in LESIONS]
    new = [f for f in now if f.present and f.finding in LESIONS]
    said, seen, placed = [], set(), set()
    for found in new:
        near = [(mm, i) for i, f in enumerate(old) if (mm := _apart(found, f, way)) is not None]
        free = [(mm, i) for mm, i in near if i not in placed or not mm]
        if not free:
            said.append(_sentence("New", found))
            continue
        mm, match = min(free)
        seen.add(match)
        if mm:  # one lesion of the prior is in one place once
            placed.add(match)
        said.append(_sentence(_trend(found, old[match]), found))
    said += [_sentence("No longer seen", f) for i, f in enumerate(old) if i not in seen]
    return said or [Sentence("No lesion is told of either examination, so there is nothing to compare.")]


def growth(now: float, before: float) -> str:
    """What became of a volume, in ml; less than a fifth or 0.1 ml is within the error of outlines."""
    sizes = f"({before:.1f} ml before, {now:.1f} ml now)"
    if abs(now - before) < max(_ML, _SHARE * before):
        return f"Unchanged within the error of measurement {sizes}"
    return f"{'Larger' if now > before else 'Smaller'} by {abs(now - before):.1f} ml {sizes}"


def _apart(now: Finding, before: Finding, way: Alignment | None) -> float | None:
    """mm between two that may be one lesion, 0 where their places are not known; None: they are two."""
    named = (now.finding, now.organ) == (before.finding, before.organ)
    sided = now.side == before.side or None in (now.side, before.side)
    if not (named and sided):
        return None
    here, there = _box(now), _box(before)
    if way is None or here is None or there is None:
        return 0.0
    apart = float(np.linalg.norm(way.points([here.mean(0)])[0] - there.mean(0)))
    reach = max(_APART, float(max(np.ptp(here, axis=0).max(), np.ptp(there, axis=0).max())) / 2)
    return max(apart, 1e-3) if apart < reach else None


def _box(found: Finding) -> NDArray[np.float64] | None:
    """(2, 3): low and high corner of the first mask or box in patient space."""
    for item in found.evidence:
        if isinstance(item, Box) and len(item.low) == 3:
            return np.array([item.low, item.high])
        if isinstance(item, Mask) and item.array.any():
            index = np.argwhere(item.array)[:, ::-1]
            places = index @ item.affine[:3, :3].T + item.affine[:3, 3]
            return np.stack([places.min(0), places.max(0)])
    return None


def _volume(found: Finding) -> float | None:
    """Millilitres: measured, or of the mask."""
    if found.ml is not None:
        return found.ml
    masks = (
        np.count_nonzero(item.array) * item.voxel_volume / 1000 for item in found.evidence if isinstance(item, Mask)
    )
    return next(masks, None)


def _trend(now: Finding, before: Finding) -> str:
    new, old = _volume(now), _volume(before)
    if new is not None and old is not None:
        return growth(new, old)
    if now.size_mm is None or before.size_mm is None:
        return "Seen before, too"
    change = now.size_mm - before.size_mm
    if abs(change) < max(_MM, _SHARE * before.size_mm):
        return f"Unchanged within the error of measurement ({before.size_mm:.0f} mm before)"
    return f"{'Larger' if change > 0 else 'Smaller'} ({before.size_mm:.0f} mm before, {now.size_mm:.0f} mm now)"


def _sentence(what: str, found: Finding) -> Sentence:
    ((text, _),) = write([found])
    evidence = () if what == "No longer seen" else found.evidence
    stated = Finding(found.finding, found.organ, found.side, what != "No longer seen", found.size_mm, found.confidence)
    name = text[0].lower() + text[1:]
    return Sentence(f"{what}: {name.removeprefix('there is ')}", (stated,), evidence, found.confidence)
