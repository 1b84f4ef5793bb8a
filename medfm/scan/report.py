"""What a report is made of: findings as typed facts, sentences with their evidence and state, sections, the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from medfm.errors import DataError
from medfm.scan.results import Box, Mask

__all__ = ["Evidence", "Finding", "Measurement", "Report", "Section", "Sentence", "Side", "State"]

Side = Literal["left", "right", "both", "midline"]  # the patient's, never the picture's
State = Literal["draft", "accepted", "edited", "rejected"]


@dataclass(frozen=True)
class Measurement:
    """A number read off the scan: what was measured, its value and unit ("mm", "ml", "HU", "px")."""

    label: str
    value: float
    unit: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"kind": "measurement", "label": self.label, "value": float(self.value), "unit": self.unit}


Evidence = Box | Mask | Measurement


@dataclass(frozen=True)
class Finding:
    """One fact about a scan: `finding` is present (or not) in `organ`, on `side`.

    finding: what was looked for, lower case ("effusion", "brain edema"); "in view" where the organ itself is the fact;
    "abnormality" where its kind is not known. size_mm: its largest extent in the plane that was read, where the
    spacing is known. confidence: 0 to 1.
    """

    finding: str
    organ: str | None = None
    side: Side | None = None
    present: bool = True
    size_mm: float | None = None
    confidence: float | None = None
    evidence: tuple[Evidence, ...] = ()

    @property
    def fact(self) -> tuple[str, str | None, Side | None, bool]:
        """(finding, organ, side, present): what two reports agree or disagree about."""
        return (self.finding, self.organ, self.side, self.present)

    @property
    def ml(self) -> float | None:
        """Its volume, if it was measured."""
        measured = (item.value for item in self.evidence if isinstance(item, Measurement) and item.unit == "ml")
        return next(measured, None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "finding": self.finding,
            "organ": self.organ,
            "side": self.side,
            "present": self.present,
            "size_mm": None if self.size_mm is None else float(self.size_mm),
            "confidence": None if self.confidence is None else float(self.confidence),
            "evidence": [item.to_dict() for item in self.evidence],
        }


@dataclass(frozen=True)
class Sentence:
    """One sentence of a report. No evidence means that nothing in the scan was found that it rests on.

    When `abstained` is true, the model declines to say it and `reason` says why: show it as a guess or not at all.
    """

    text: str
    findings: tuple[Finding, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    confidence: float | None = None
    state: State = "draft"
    abstained: bool = False
    reason: str | None = None

    def __post_init__(self) -> None:
        if self.state not in get_args(State):
            raise DataError(f"A sentence is {', '.join(get_args(State))}; found {self.state!r}.")

    def accept(self) -> Sentence:
        """The reader stands by it, as it is; a reader's word ends an abstention."""
        return replace(self, state="accepted", abstained=False, reason=None)

    def edit(self, text: str) -> Sentence:
        """The reader's own words: they have the reader's authority and no longer the model's confidence."""
        return replace(self, text=text, state="edited", confidence=None, abstained=False, reason=None)

    def reject(self) -> Sentence:
        """The reader strikes it; it stays in the record and leaves the exports."""
        return replace(self, state="rejected")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "text": self.text,
            "findings": [finding.to_dict() for finding in self.findings],
            "evidence": [item.to_dict() for item in self.evidence],
            "confidence": None if self.confidence is None else float(self.confidence),
            "state": self.state,
            "abstained": self.abstained,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Section:
    """Sentences under one heading; for findings the heading is the anatomical region."""

    title: str
    sentences: tuple[Sentence, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"title": self.title, "sentences": [sentence.to_dict() for sentence in self.sentences]}


@dataclass(frozen=True)
class Report:
    """A draft report. It is final when no sentence is a draft, which only a reader can bring about.

    technique, impression, comparison (against a prior): sentences; findings: sections by anatomical region.
    context: what was given as text (indication, history, labs, prior), by name. model, adapter, version: who wrote it.
    scan: sha256 of the pixels it was written from.
    """

    technique: Section
    findings: tuple[Section, ...]
    impression: Section
    comparison: Section | None = None
    context: Mapping[str, str] = field(default_factory=dict)
    model: str = ""
    adapter: str = ""
    version: str = ""
    scan: str = ""

    @property
    def sections(self) -> tuple[Section, ...]:
        """All sections in the order of reading."""
        between = () if self.comparison is None else (self.comparison,)
        return (self.technique, *between, *self.findings, self.impression)

    @property
    def final(self) -> bool:
        """True when a reader has accepted, edited or rejected every sentence."""
        return all(sentence.state != "draft" for sentence in self.sentences())

    @property
    def watermark(self) -> str:
        """The line every export carries."""
        return f"Draft by {self.model}, adapter {self.adapter}, version {self.version}; not for diagnosis."

    def sentences(self) -> Iterator[Sentence]:
        """All sentences, section by section."""
        for section in self.sections:
            yield from section.sentences

    def changed(self, section: int, sentence: int, new: Sentence) -> Report:
        """A copy with one sentence replaced; `section` counts in `sections`, both from 0."""
        old = self.sections[section]
        sentences = tuple(new if index == sentence else kept for index, kept in enumerate(old.sentences))
        swapped = {id(old): replace(old, sentences=sentences)}

        def pick(kept: Section) -> Section:
            return swapped.get(id(kept), kept)

        return replace(
            self,
            technique=pick(self.technique),
            findings=tuple(pick(kept) for kept in self.findings),
            impression=pick(self.impression),
            comparison=None if self.comparison is None else pick(self.comparison),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "kind": "report",
            "technique": self.technique.to_dict(),
            "comparison": None if self.comparison is None else self.comparison.to_dict(),
            "findings": [section.to_dict() for section in self.findings],
            "impression": self.impression.to_dict(),
            "context": dict(self.context),
            "watermark": self.watermark,
            "model": self.model,
            "adapter": self.adapter,
            "version": self.version,
            "scan": self.scan,
        }
