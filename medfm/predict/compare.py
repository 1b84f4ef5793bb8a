"""What changed since a prior scan or report: lesions that are new, gone, still there, larger or smaller."""

from __future__ import annotations

from collections.abc import Sequence

from medfm.language.vocabulary import LESIONS
from medfm.language.wording import write
from medfm.scan import Finding, Sentence

__all__ = ["compare"]

_MM, _SHARE = 3.0, 0.2  # less than this in mm, or as a share, is within the coarseness of the boxes


def compare(now: Sequence[Finding], before: Sequence[Finding]) -> list[Sentence]:
    """Sentences on each lesion of either; sizes are compared where both are known.

    Sides are matched where both are told; a lesion told without a side matches any.
    """
    old = [f for f in before if f.present and f.finding in LESIONS]
    new = [f for f in now if f.present and f.finding in LESIONS]
    said = []
    for found in new:
        match = next((f for f in old if _same(found, f)), None)
        said.append(_sentence("New" if match is None else _trend(found, match), found))
    said += [_sentence("No longer seen", f) for f in old if not any(_same(f, other) for other in new)]
    return said or [Sentence("No lesion is told of either examination, so there is nothing to compare.")]


def _same(a: Finding, b: Finding) -> bool:
    return (a.finding, a.organ) == (b.finding, b.organ) and (a.side == b.side or None in (a.side, b.side))


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
