"""What every written form of a report says: which sentences leave, and what stands behind each."""

from __future__ import annotations

from collections.abc import Iterator

from medfm.scan import Box, Mask, Measurement, Report, Section, Sentence
from medfm.scan.report import Evidence

__all__ = ["TITLES", "evidence_line", "leaving", "note", "short_watermark"]

TITLES = {"indication": "Indication", "history": "History", "labs": "Laboratory", "prior": "Prior report"}


def leaving(report: Report) -> Iterator[tuple[Section, list[Sentence]]]:
    """Sections with their sentences that the reader has not struck; empty sections are left out."""
    for section in report.sections:
        sentences = [sentence for sentence in section.sentences if sentence.state != "rejected"]
        if sentences:
            yield section, sentences


def note(sentence: Sentence) -> str:
    """State and confidence in a few words; an abstention says why."""
    if sentence.abstained:
        return f"not stated: {sentence.reason or 'not sure enough'}"
    sure = "" if sentence.confidence is None else f", confidence {sentence.confidence:.0%}"
    return sentence.state + sure


def evidence_line(item: Evidence) -> str:
    """One piece of evidence in words: its place, its number."""
    if isinstance(item, Measurement):
        return f"{item.label}: {item.value:.1f} {item.unit}"
    if isinstance(item, Mask):
        volumes = item.to_dict()["labels"].values()
        return "; ".join(f"{label['name']}: {label['ml']:.1f} ml" for label in volumes)
    return _box_line(item)


def _box_line(box: Box) -> str:
    low, high = (", ".join(f"{v:.0f}" for v in corner) for corner in (box.low, box.high))
    line = f"{box.label}: box ({low}) to ({high}) {'mm' if len(box.low) == 3 else 'px'}"
    line += "" if box.slice is None else f", slice {box.slice + 1}"
    return line + ("" if box.score is None else f", score {box.score:.2f}")


def short_watermark(adapter: str, version: str) -> str:
    """The watermark in the 64 characters that a DICOM description holds; the adapter's name is cut, not the warning."""
    return f"DRAFT, not for diagnosis; medfm {version}, {adapter}"[:64]
