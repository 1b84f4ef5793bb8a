"""Questions that fit a scan, for somebody who does not know what to ask first."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medfm.assistant.conversation import Conversation
    from medfm.scan import Scan

__all__ = ["suggestions"]

_ANYTHING = ("What modality is used to take this image?", "Which part of the body does this image belong to?")
_BY_PART = (
    (("chest", "lung", "thorax"), ("Is the heart enlarged?", "Is there a pleural effusion?", "Segment the lungs")),
    (
        ("abdomen", "liver", "pelvis", "body"),
        ("Does the picture contain the kidney?", "Is the liver healthy?", "Segment the liver"),
    ),
    (("brain", "head", "skull"), ("Is there a brain tumor?", "Is there edema in the brain?", "Is the brain normal?")),
)  # fmt: skip
_BRAIN = ("Measure the hippocampus", "Measure the lateral ventricle", "Draft a report")  # told of volumes only


def suggestions(talk: Conversation) -> list[str]:
    """Four at most; none without a scan."""
    scan = talk.current
    if scan is None:
        return []
    trained = _by_trained_models(scan) if scan.data.shape[1] == 1 else []
    if scan.modality == "PHOTO":
        return ["What is shown in this picture?", *trained, "Does the picture look abnormal?"][:4]
    part = (scan.body_part or "").lower()
    fitting: tuple[str, ...] = next((found for words, found in _BY_PART if any(word in part for word in words)), ())
    if fitting == _BY_PART[-1][1] and scan.data.shape[1] > 1 and scan.modality == "MR":
        fitting = _BRAIN
    if talk.prior is not None and fitting:
        subject = next((text.split("the ", 1)[1] for text in fitting if text.startswith(("Segment", "Measure"))), None)
        fitting = (f"Compare the {subject} with the prior", *fitting) if subject else fitting
    return [*fitting[:3], *trained, *fitting[3:], *_ANYTHING][:4]


def _by_trained_models(scan: Scan) -> list[str]:
    """What models for one task can do with a picture like this."""
    from medfm.assistant.task_models import names_for

    found = [f"Find all {name}" for name in names_for("detect", scan)]
    told = ", ".join(names_for("classify", scan))  # what for: MR and films are grey pictures alike
    return [*([f"Classify this picture: {told}"] if told else []), *found[:2]]
