"""What changed since a prior scan or report: lesions that are new, gone, still there, larger or smaller."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medfm.language.vocabulary import LESIONS
from medfm.language.wording import write
from medfm.scan import Alignment, Box, Finding, Sentence

__all__ = ["compare"]

_MM, _SHARE = 3.0, 0.2  # less than this in mm, or as a share, is within the coarseness of the boxes
_APART = 20.0  # mm between the middles of two boxes of one lesion, or half the size of the larger if that is more


def compare(now: Sequence[Finding], before: Sequence[Finding], *, way: Alignment | None = None) -> list[Sentence]:
    """Sentences on each lesion of either; sizes are compared where both are known.

    Sides are matched where both are told; a lesion told without a side matches any. way: from the scan of `now` to that
    of `before`, as registering the prior finds it; then lesions with boxes in mm are one only if they lie in one place.
    """
    old = [f for f in before if f.present and f.finding in LESIONS]
    new = [f for f in now if f.present and f.finding in LESIONS]
    said = []
    for found in new:
        match = next((f for f in old if _same(found, f, way)), None)
        said.append(_sentence("New" if match is None else _trend(found, match), found))
    said += [_sentence("No longer seen", f) for f in old if not any(_same(other, f, way) for other in new)]
    return said or [Sentence("No lesion is told of either examination, so there is nothing to compare.")]


def _same(now: Finding, before: Finding, way: Alignment | None) -> bool:
    named = (now.finding, now.organ) == (before.finding, before.organ)
    sided = now.side == before.side or None in (now.side, before.side)
    here, there = _box(now), _box(before)
    if not named or not sided or way is None or here is None or there is None:
        return named and sided
    apart = float(np.linalg.norm(way.points([here.mean(0)])[0] - there.mean(0)))
    return apart < max(_APART, float(max(np.ptp(here, axis=0).max(), np.ptp(there, axis=0).max())) / 2)


def _box(found: Finding) -> NDArray[np.float64] | None:
    """(2, 3): low and high corner of the first box in patient space."""
    boxes = [item for item in found.evidence if isinstance(item, Box) and len(item.low) == 3]
    return np.array([boxes[0].low, boxes[0].high]) if boxes else None


def _trend(now: Finding, before: Finding) -> str:
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
