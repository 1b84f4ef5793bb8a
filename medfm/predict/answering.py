"""Questions about a scan: what a person asks, and the answer with its confidence and evidence."""

from __future__ import annotations

import math
import re
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

from medfm.language.vocabulary import term_of
from medfm.predict.brain import is_brain_volume
from medfm.predict.called import verb
from medfm.predict.contradiction import (
    SINGLE_PICTURES,
    asks_for,
    claimed,
    contradiction,
    known_fact,
    part_of,
    source,
    unsupported,
)
from medfm.predict.lesions import find_lesions
from medfm.predict.places import highest, inside, pieces
from medfm.prepare import KINDS
from medfm.scan import Scan
from medfm.scan.results import Answer, Box, Mask

if TYPE_CHECKING:
    from medfm.model import MedFM, Reading

__all__ = ["MODALITY", "PART", "ask", "ask_many", "stream"]

MODALITY = "What modality is used to take this image?"
PART = "Which part of the body does this image belong to?"


@verb
def ask(model: MedFM, scan: Scan, question: str, *, plane: str | None = None) -> Answer:
    """Answer one question about `scan`; the scan is encoded on the first question and remembered.

    plane: "axial", "coronal" or "sagittal", of a volume in patient space (default: the one it was acquired in). The
    Answer says how sure the model is and where in the scan it comes from; below the confidence that the adapter needs,
    or against what the file says, it is an abstention with its reason, in the latter case without a guess. Raises
    ScanError: no such plane.
    """
    return ask_many(model, scan, [question], plane=plane)[0]


@verb
def ask_many(model: MedFM, scan: Scan, questions: Sequence[str], *, plane: str | None = None) -> list[Answer]:
    """As `ask`, several questions: one encoding, one prefix, sixteen questions at a time."""
    reading, answers = model.read(scan, plane=plane), []
    for start in range(0, len(questions), 16):
        chunk = list(questions[start : start + 16])
        *_, last = model.answers(reading, chunk)
        answers += [_answer(model, scan, reading, q, text, logp) for q, (text, logp) in zip(chunk, last, strict=True)]
    return answers


@verb
def stream(model: MedFM, scan: Scan, question: str, *, plane: str | None = None) -> Generator[str, None, Answer]:
    """As `ask`, yielding the text as it grows, piece by piece; the generator's return value is the Answer."""
    reading = model.read(scan, plane=plane)
    shown, text, logp = "", "", 0.0
    # the file or a map of lesions may know better: nothing is said before that is clear
    late = asks_for(question) is not None or scan.data.shape[1] > 1
    for ((text, logp),) in model.answers(reading, [question]):  # noqa: B007  (the last one is used)
        if not late and text.startswith(shown) and text != shown and not text.endswith("\N{REPLACEMENT CHARACTER}"):
            yield text[len(shown) :]
            shown = text
    answer = _answer(model, scan, reading, question, text, logp)
    if late:
        yield answer.text
    return answer


def _answer(model: MedFM, scan: Scan, reading: Reading, question: str, text: str, logp: float) -> Answer:
    confidence = math.exp(logp)
    low = confidence < model.config.abstain
    reason = f"confidence {confidence:.0%} is below the {model.config.abstain:.0%} this model needs" if low else None
    plane = reading.prepared.plane
    other = contradiction(scan, text, plane=plane)
    if (low or other) and (fact := asks_for(question)) and (known := known_fact(scan, fact, plane=plane)):
        thought = "took the picture for" if other else "was not sure of"
        return Answer(known, reason=f"{source(scan, fact, plane=plane)}; the model {thought} {text!r}")
    present = claimed(question, text)
    if other:  # known to be wrong, so not even a guess
        low, reason, text = True, f"{other}, which does not go with the model's answer", ""
    if present is None or not _brain(model, scan, reading):
        if present and scan.data.shape[1] > 1 and model.vision is not None:
            low, reason = True, reason or SINGLE_PICTURES
        return Answer(text, confidence, low, _evidence(model, scan, reading, f"{question} {text}"), reason)
    found = find_lesions(scan)
    if why := unsupported(present, question, found):
        low, reason, text = True, why, ""
    masks = (item for lesion in found for item in lesion.evidence if isinstance(item, Mask))
    return Answer(text, confidence, low, tuple(masks), reason)


def _brain(model: MedFM, scan: Scan, reading: Reading) -> bool:
    """Whether it is MR of a whole head: by the header, else by the second look."""
    if scan.data.shape[1] == 1 or KINDS.get(scan.modality) != "MRI":
        return False
    part = part_of(scan.body_part or "")
    if part is None and reading.memory is not None:
        (named,) = model.candidates(reading.memory, [PART], most=1)
        part = part_of(named[0][0]) if named else None
    return part == "head" and is_brain_volume(scan, "Head")


def _evidence(model: MedFM, scan: Scan, reading: Reading, text: str) -> tuple[Box, ...]:
    """Boxes of the structures that the question or the answer names and the eye found; of a film only of diseases,
    since nobody has drawn organs on films for the eye to learn from."""
    if model.vision is None or scan.modality == "PHOTO":  # somebody else's model, or a kind that ours was not taught
        return ()
    words = set(re.findall(r"[a-z]+", text.lower()))
    words |= {w[:-1] for w in words if w.endswith("s")}
    boxes = []
    for index, label in enumerate(model.vision.structures.labels):
        parts = re.findall(r"[a-z]+", label.lower())
        sided = parts[0] in ("left", "right")
        if not set(parts[1:] if sided else parts) <= words or (
            sided and parts[0] not in words and {"left", "right"} & words
        ):
            continue
        probability = inside(reading, reading.logits[0, index].sigmoid().numpy())
        if highest(probability) > 0.5:
            boxes.append(pieces(scan, reading, label, probability)[0].box)
    if any(_organ(box) for box in boxes) and _film(model, scan, reading):
        boxes = [box for box in boxes if not _organ(box)]
    return tuple(sorted(boxes, key=lambda b: -(b.score or 0)))


def _organ(box: Box) -> bool:
    return term_of(box.label)[0] == "in view"


def _film(model: MedFM, scan: Scan, reading: Reading) -> bool:
    """By the header; where it does not say, by the second look, which costs no words of the language model."""
    if scan.modality != "UNKNOWN":
        return KINDS.get(scan.modality) == "X-Ray"
    if reading.memory is None or scan.data.shape[1] > 1:
        return False
    (named,) = model.candidates(reading.memory, [MODALITY], most=1)
    return bool(named) and "x-ray" in named[0][0].lower()
