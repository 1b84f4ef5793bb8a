"""An answer that says something else than the file or a map of lesions: a model may be sure of it, and is wrong."""

from __future__ import annotations

import re
from collections.abc import Sequence

from medfm.prepare import KINDS
from medfm.scan import Finding, Scan

__all__ = ["SINGLE_PICTURES", "asks_for", "claimed", "contradiction", "known_fact", "part_of", "source", "unsupported"]

# a map's highest value among many slices says little, and none was learned from volumes
SINGLE_PICTURES = "lesions have been learned from single pictures; in a volume they are guesses to look at"
_MODALITIES = {
    **{kind.lower(): kind for kind in KINDS.values()}, "computed tomography": "CT", "mr": "MRI",
    "magnetic resonance imaging": "MRI", "x ray": "X-Ray", "xray": "X-Ray",
}  # fmt: skip
_PARTS = {
    "head": "head", "brain": "head", "neck": "neck", "chest": "chest", "lung": "chest", "thorax": "chest",
    "abdomen": "abdomen", "belly": "abdomen", "pelvis": "pelvis", "pelvic cavity": "pelvis",
}  # fmt: skip
_NEXT = {frozenset(pair) for pair in (("head", "neck"), ("neck", "chest"), ("abdomen", "pelvis"))}
_PLANES = {"axial": "axial", "transverse": "axial", "coronal": "coronal", "sagittal": "sagittal"}
_ASKS = {
    "modality": re.compile(r"\bmodality\b|\bhow (?:was|is) (?:this|the) (?:image|scan|picture) taken\b"),
    "body_part": re.compile(
        r"\b(?:part|region|area|section) of (?:the )?(?:human )?body\b|\b(?:body|anatomical) (?:part|region)\b"
    ),
    "plane": re.compile(r"\b(?:which|what)\b.*\bplane\b"),
}
_ILL = re.compile(
    r"\b(?:abnormal|tumou?r|lesion|mass\b|masses|cancer|neoplasm|metastas|glioma|o?edema|diseas|patholog|unhealthy)"
)
_WELL = re.compile(r"\b(?:healthy|normal|unremarkable|free of|without)\b")
_SHOWN, _HIDDEN = 0.5, 0.3  # scores from which a lesion is shown, and below which there is none: as in a report


def claimed(question: str, answer: str) -> bool | None:
    """Whether an answer says that there is a lesion, or that there is none; None: neither."""
    asked, said = question.lower(), answer.lower().strip(" .")
    if said in ("yes", "no", "none"):
        well = bool(_WELL.search(asked))
        return (said == "yes") != well if well or _ILL.search(asked) else None
    if _WELL.search(said):
        return False
    return True if _ILL.search(said) else None


def unsupported(present: bool, question: str, found: Sequence[Finding]) -> str | None:
    """In words, why it cannot be said of a brain's volume that a lesion is there (`present`), or that none is.

    found: what a model of lesions found in it, see `find_lesions`; nothing without such a model. A side that the
    question names is compared, too.
    """
    if not found:
        return "tumours were learned from single pictures, of brains that nearly all have one, and not from volumes"
    best = max(found, key=lambda f: f.confidence or 0.0)
    score = best.confidence or 0.0
    if _HIDDEN <= score < _SHOWN:
        return f"the map of lesions is not sure of one (score {score:.2f})"
    shown = [f for f in found if (f.confidence or 0.0) >= _SHOWN]
    if not present and shown:
        return f"the map of lesions shows one of {best.ml or 0:.1f} ml on the {best.side} (score {score:.2f})"
    if present and not shown:
        return f"the map of lesions shows none (highest score {score:.2f})"
    sides = {side for side in ("left", "right") if re.search(rf"\b{side}\b", question.lower())}
    if present and len(sides) == 1 and sides.isdisjoint({f.side for f in shown}):
        return f"the map of lesions shows one on the {best.side} only"
    return None


def part_of(words: str) -> str | None:
    """The part of the body that a name of one means: "brain" -> "head"."""
    return _PARTS.get(words.lower().strip(" ."))


def asks_for(question: str) -> str | None:
    """Which fact of a file a question wants to be told, "modality", "body_part" or "plane": "What part of the body is
    shown?", and not "Is this the chest?" or "Which part of the body does the liver belong to?"."""
    asked = question.lower()
    if re.match(r"(?:is|are|does|do|can|was)\b", asked) or re.search(r"\b(?:organs?|tissue|disease)\b", asked):
        return None
    return next((fact for fact, words in _ASKS.items() if words.search(asked)), None)


def known_fact(scan: Scan, fact: str, *, plane: str | None = None) -> str | None:
    """The fact in the words of an answer, as far as the file tells it. plane: the one that was read."""
    if fact == "modality":
        return KINDS.get(scan.modality)
    if fact == "body_part":
        known = part_of(scan.body_part or "")
        return known.capitalize() if known else None
    return f"{plane.capitalize()} plane" if plane and scan.frame == "patient" else None


def source(scan: Scan, fact: str, *, plane: str | None = None) -> str:
    """In words, how the file tells the fact, one that `known_fact` knows."""
    if fact == "plane":
        return f"the slices that were read are {plane}"
    value = part_of(scan.body_part or "") if fact == "body_part" else scan.modality
    return f"the {'values in the scan suggest' if fact in scan.estimated else 'header says'} {value}"


def contradiction(scan: Scan, answer: str, *, plane: str | None = None) -> str | None:
    """In words, what the file says where `answer` is the name of another modality, plane or part of the body.

    plane: the one that was read. Neighbouring parts (head and neck, abdomen and pelvis) do not contradict each other:
    scans seldom end where a part does. None: nothing is contradicted, or the file says nothing.
    """
    said = answer.lower().strip(" .")
    modality, part = _MODALITIES.get(said), part_of(said)
    if modality and KINDS.get(scan.modality, modality) != modality:
        return source(scan, "modality")
    known = part_of(scan.body_part or "")
    if part and known and part != known and frozenset((part, known)) not in _NEXT:
        return source(scan, "body_part")
    shown = _PLANES.get(said.removesuffix(" plane"))
    if shown and plane and scan.frame == "patient" and shown != plane:
        return source(scan, "plane", plane=plane)
    return None
