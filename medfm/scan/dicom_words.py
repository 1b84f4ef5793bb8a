"""DICOM's words for modality, body part and units, in a fixed vocabulary so that free text cannot leak a name."""

from __future__ import annotations

import re
from typing import Any

from medfm.scan.dicom_header import element, text_of

__all__ = ["body_part_of", "modality_of", "safe_description", "units_of"]

_PHOTO = {"XC", "ES", "OP", "GM", "DMS"}
_MODALITIES = {
    "CT", "MR", "PT", "NM", "US", "CR", "DX", "MG", "XA", "RF", "RG", "IO", "PX", "OPT", "OCT", "IVUS", "IVOCT",
    "BMD", "SM", "SEG", "RTDOSE", "RTIMAGE", "BI", "TG", "LS",
}  # fmt: skip
# first match wins: the narrower word stands before the wider one
_BODY_PARTS = {
    "breast": r"breast|mammo",
    "heart": r"heart|cardia|coronar",
    "chest": r"chest|thora|lung|rib|sternum|medias",
    "abdomen": r"abd|liver|hepat|kidney|renal|pancrea|spleen|bowel|colon|stomach",
    "pelvis": r"pelvi|prostat|uter|bladder|sacrum|rectum",
    "head": r"head|brain|skull|orbit|sinus|face|facial|\biac|pituit|cereb|neuro|\bjaw|mandib|maxill|dental|teeth",
    "neck": r"neck|thyroid|laryn|carotid",
    "spine": r"spine|[ctl]spine|sspine|lumb|vertebr|\bl-?s\b",
    "shoulder": r"shoulder|clavic|scapul",
    "hip": r"\bhip",
    "knee": r"knee|patell",
    "hand": r"hand|wrist|finger|thumb",
    "foot": r"foot|ankle|toe|heel|calcan",
    "arm": r"\barm|humer|elbow|forearm|radius|ulna|upper ?extrem",
    "leg": r"\bleg\b|femur|tibia|fibula|thigh|calf|lower ?extrem|extremity",
    "whole body": r"whole ?body|wholebody",
}
_SPINE_FIRST = re.compile(r"[ctl]spine|[ctl]-spine|spine")


def modality_of(header: Any) -> str:
    """The DICOM modality code; PHOTO for cameras; UNKNOWN when it says nothing (OT, SC, empty, junk)."""
    code = text_of(header, "Modality").strip().upper()
    return "PHOTO" if code in _PHOTO else code if code in _MODALITIES else "UNKNOWN"


def units_of(header: Any, notes: list[str]) -> str:
    """HU for a CT with a rescale to HU, else a.u."""
    if modality_of(header) != "CT":
        return "a.u."
    shared = element(header, "SharedFunctionalGroupsSequence") is not None
    if not shared and not text_of(header, "RescaleSlope") and not text_of(header, "RescaleIntercept"):
        notes.append("A CT without rescale: its values may not be Hounsfield units.")
        return "a.u."
    return "HU" if text_of(header, "RescaleType").upper() in ("", "HU", "US", "HU_MOD") else "a.u."


def _match(text: str) -> str | None:
    text = text.lower().replace("_", " ")
    if _SPINE_FIRST.search(text):
        return "spine"
    return next((part for part, words in _BODY_PARTS.items() if re.search(words, text)), None)


def body_part_of(header: Any) -> tuple[str | None, bool]:
    """(body part, whether it was guessed from free text rather than from Body Part Examined)."""
    region = element(header, "AnatomicRegionSequence")
    coded = text_of(region[0], "CodeMeaning") if region and not isinstance(region, (str, bytes)) else ""
    for text in (text_of(header, "BodyPartExamined"), coded):
        part = _match(text)
        if part:
            return part, False
    for name in ("SeriesDescription", "ProtocolName", "StudyDescription"):
        part = _match(text_of(header, name))
        if part:
            return part, True
    return None, False


def safe_description(header: Any) -> str:
    """The series description, unless it repeats a part of the patient's or physician's name, an id or a date."""
    text = "".join(ch for ch in text_of(header, "SeriesDescription") if ch.isprintable()).strip()[:40]
    if re.search(r"\d{5,}|\d+[./-]\d+[./-]\d+", text):
        return ""
    for name in ("PatientName", "PatientID", "OtherPatientIDs", "AccessionNumber", "ReferringPhysicianName"):
        for word in re.split(r"[\W_]+", text_of(header, name).lower()):
            if len(word) > 2 and word in text.lower():
                return ""
    return text
