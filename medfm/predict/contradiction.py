"""An answer that says something else than the file itself: a model may be sure of it, and is wrong."""

from __future__ import annotations

from medfm.prepare import KINDS
from medfm.scan import Scan

__all__ = ["contradiction"]

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


def contradiction(scan: Scan, answer: str, *, plane: str | None = None) -> str | None:
    """In words, what the file says where `answer` is the name of another modality, plane or part of the body.

    plane: the one that was read. Neighbouring parts (head and neck, abdomen and pelvis) do not contradict each other:
    scans seldom end where a part does. None: nothing is contradicted, or the file says nothing.
    """
    said = answer.lower().strip(" .")
    modality, part = _MODALITIES.get(said), _PARTS.get(said)
    if modality and KINDS.get(scan.modality, modality) != modality:
        return _words(scan, "modality", scan.modality)
    known = _PARTS.get(scan.body_part or "")
    if part and known and part != known and frozenset((part, known)) not in _NEXT:
        return _words(scan, "body_part", known)
    shown = _PLANES.get(said.removesuffix(" plane"))
    if shown and plane and scan.frame == "patient" and shown != plane:
        return f"the slices that were read are {plane}"
    return None


def _words(scan: Scan, attribute: str, value: str) -> str:
    return f"the {'values in the scan suggest' if attribute in scan.estimated else 'header says'} {value}"
