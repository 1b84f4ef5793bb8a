"""What the eye and the answers say is in a scan, before any sentence: candidates with a calibrated confidence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from medfm import prepare
from medfm.data.truths import side_of
from medfm.language.vocabulary import LESIONS, ORGANS, may_show, region_in, term_of
from medfm.language.wording import read
from medfm.predict.answering import MODALITY, PART, ask_many
from medfm.predict.places import Piece, highest, inside, pieces
from medfm.prepare import Prepared
from medfm.scan import Answer, Box, Finding, Measurement, Scan
from medfm.scan.report import Evidence, Side

if TYPE_CHECKING:
    from medfm.model import MedFM, Reading

__all__ = ["KINDS", "Candidate", "Look", "look"]

_PLANE, _DISEASES = "What is the scanning plane of this image?", "What diseases are included in the picture?"
_ASKED_ORGANS = ("liver", "spleen", "kidney", "heart", "lung", "bladder")
KINDS = {**prepare.KINDS, "PHOTO": "Photograph"}
_LEARNED = ("CT", "MRI", "X-Ray")
_ALONE = 0.45  # a film's map without a word of the answers: enough for a guess, not for a statement


@dataclass(frozen=True)
class Candidate:
    """A fact that may be true: what was found for it, and how sure that makes us.

    finding: with the calibrated confidence that it is present, and its evidence. group: the candidates it is
    calibrated with. score: highest logit of its map, clipped to 7. said: what the answers add: the confidence that a
    disease was named with, or how far the answer about an organ leans to yes (-0.5 to 0.5).
    """

    finding: Finding
    group: str
    score: float
    said: float


@dataclass(frozen=True)
class Look:
    """One scan looked at: what kind of image it is, each with its confidence (None = the header says so).

    volume: of several slices, of which nobody has drawn lesions for the maps to learn from.
    """

    modality: str
    region: str
    plane: str
    sure: Mapping[str, float | None]
    candidates: tuple[Candidate, ...]
    volume: bool = False


def look(model: MedFM, scan: Scan, *, plane: str | None = None) -> Look:
    """Read `scan` once, ask what the report needs, and list everything that can be told of this kind of image."""
    reading = model.read(scan, plane=plane)
    questions = [MODALITY, PART, _PLANE, _DISEASES, *(f"Does the picture contain {o}?" for o in _ASKED_ORGANS)]
    answers = dict(zip(questions, ask_many(model, scan, questions, plane=plane), strict=True))
    about, sure = _kind(scan, reading.prepared, answers)
    fit = (getattr(model.config, "report", None) or {}).get("calibration", {})
    found = _candidates(model, scan, reading, answers, about)
    known = tuple(_calibrated(c, fit) for c in found)
    return Look(about["modality"], about["region"], about["plane"], sure, known, scan.data.shape[1] > 1)


def _kind(
    scan: Scan, prepared: Prepared, answers: Mapping[str, Answer]
) -> tuple[dict[str, str], dict[str, float | None]]:
    """Modality, region and plane: from the header where it knows, else as answered."""
    about = {"modality": KINDS.get(scan.modality, ""), "region": region_in(scan.body_part or ""), "plane": ""}
    about["plane"] = "axial" if prepared.plane == "transverse" else prepared.plane or ""
    sure: dict[str, float | None] = dict.fromkeys(about)
    if about["modality"] == "Photograph":  # the answers know the planes and parts of radiology only
        return about, sure
    for name, question in (("modality", MODALITY), ("region", PART), ("plane", _PLANE)):
        if not about[name]:
            said = answers[question]
            text = said.text.lower().replace("transverse", "axial").removesuffix("plane").strip()
            about[name] = {"region": region_in(text), "modality": said.text, "plane": text}[name]
            sure[name] = said.confidence
    return about, sure


def _candidates(
    model: MedFM, scan: Scan, reading: Reading, answers: Mapping[str, Answer], about: Mapping[str, str]
) -> Iterator[Candidate]:
    """Lesions that have been learned on this kind of image, and organs; on a film organs come from the answers alone,
    since nobody has drawn them there."""
    view, named = (about["modality"], about["region"]), answers[_DISEASES]
    said = {f.finding: named.confidence or 0.0 for f in read(f"there is {named.text}")}
    film = about["modality"] == "X-Ray"
    if about["modality"] not in _LEARNED:
        return
    if film:
        for organ in ("heart", "lung"):
            lean = _lean(answers[f"Does the picture contain {organ}?"])
            yield Candidate(Finding("in view", organ), "organ on a film", 0.0, lean)
    for index, label in enumerate(model.vision.structures.labels):
        name, organ, side = term_of(label)
        lesion = LESIONS.get(name)
        told_here = (
            view in lesion.views if lesion else organ in ORGANS and not film and may_show(about["region"], organ)
        )
        if not told_here:
            continue
        probability = inside(reading, reading.logits[0, index].sigmoid().numpy())
        top = highest(probability)
        parts = pieces(scan, reading, label, probability, least=min(0.5, top / 2)) if top > 0.02 else []
        score = max(-7.0, min(7.0, math.log(max(top, 1e-4) / max(1 - top, 1e-4))))
        if lesion is None:
            asked = answers.get(f"Does the picture contain {organ}?")
            found = Finding(name, organ, cast("Side | None", side), evidence=_seen(scan, parts[:1]))
            yield Candidate(found, "organ", score, 0.0 if asked is None else _lean(asked))
        else:
            group = "{} {}".format(*lesion.views[0])
            for found in _lesions(scan, name, parts, about["plane"]):
                yield Candidate(found, group, score, said.get(name, 0.0))


def _lesions(scan: Scan, name: str, parts: list[Piece], plane: str) -> Iterator[Finding]:
    """One finding for each side that has a piece at least a third of the largest; without a piece, one without side."""
    organ = LESIONS[name].organ
    sides: dict[Side | None, Piece] = {}
    for part in parts:
        if part.share > 1 / 3:
            sides.setdefault(_side(part, scan, plane) if LESIONS[name].sided else None, part)
    for side, part in sides.items():
        seen = _seen(scan, [part])
        size = max((e.value for e in seen if isinstance(e, Measurement) and e.unit == "mm"), default=None)
        yield Finding(name, organ, side, size_mm=size, evidence=seen)
    if not sides:
        yield Finding(name, organ)


def _side(part: Piece, scan: Scan, plane: str) -> Side | None:
    """Columns run to the patient's left in radiological display; sagittal slices do, too; else there is no telling."""
    if plane != "sagittal":
        return side_of(part.middle[2], width=1)
    return side_of(part.middle[0], width=1) if scan.frame == "patient" else None


def _seen(scan: Scan, parts: list[Piece]) -> tuple[Evidence, ...]:
    """The box of a piece, and its largest extent where lengths are known."""
    seen: list[Evidence] = []
    for part in parts:
        seen.append(part.box)
        if scan.spacing_known:
            seen.append(Measurement(f"{part.box.label}, largest extent of the box", _extent(part.box, scan), "mm"))
    return tuple(seen)


def _extent(box: Box, scan: Scan) -> float:
    sides = [high - low for low, high in zip(box.low, box.high, strict=True)]
    if len(sides) == 2:
        sides = [side * mm for side, mm in zip(sides, scan.spacing, strict=False)]
    return max(sides)


def _lean(answer: Answer) -> float:
    """From -0.5, surely no, to 0.5, surely yes."""
    sure = answer.confidence or 0.0
    return {"yes": sure / 2, "no": -sure / 2}.get(answer.text.lower().strip("."), 0.0)


def _calibrated(candidate: Candidate, fit: Mapping[str, Any]) -> Candidate:
    """Platt scaling (Platt 1999) with the adapter's weights of (score, said, 1); without them the map's own word, on a
    film only where an answer names the lesion, too."""
    score, said, constant = fit.get(candidate.group, (1.0, 0.0, 0.0))
    confidence = 1 / (1 + math.exp(-(score * candidate.score + said * candidate.said + constant)))
    lesion = candidate.finding.finding in LESIONS
    if lesion and candidate.group.startswith("X-Ray") and candidate.group not in fit and not candidate.said:
        confidence = min(confidence, _ALONE)  # films superimpose: maps alone invent one lesion a picture and more
    return replace(candidate, finding=replace(candidate.finding, confidence=confidence))
