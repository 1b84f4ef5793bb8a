"""What a person is told about a scan and an answer, as plain text: the command line and the chat page say the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medfm.scan import Answer, Scan

__all__ = ["DISCLAIMER", "about_answer", "about_scan", "evidence", "guess"]

DISCLAIMER = "medfm assists, it does not diagnose. Check every answer against the images."
_CONFIDENCE = ((0.9, "high"), (0.7, "moderate"), (0.5, "low"), (0.0, "very low"))


def about_scan(scan: Scan) -> str:
    """Modality, body part, plane, size and spacing in one line; what was estimated carries a question mark."""

    def known(name: str, value: str | None) -> str:
        return "" if not value else value + ("?" if name in scan.estimated else "")

    facts = [known(name, getattr(scan, name)) for name in ("modality", "body_part", "plane")]
    facts[0] = facts[0].replace("UNKNOWN", "modality not known")
    size = " x ".join(str(side) for side in reversed(scan.data.shape[1:]) if side > 1)
    spacing = " x ".join(f"{mm:.2g}" for mm in scan.spacing) + " mm" if scan.spacing_known else "spacing not known"
    return ", ".join([*filter(None, facts), size, spacing])


def about_answer(answer: Answer) -> str:
    """How sure the model is, in a word and as a number; for an abstention, why."""
    if answer.abstained:
        return f"not answered: {answer.reason or 'the model is not sure enough'}{guess(answer)}"
    if answer.confidence is None:
        return answer.reason or "confidence not known"
    word = next(word for least, word in _CONFIDENCE if answer.confidence >= least)
    return f"confidence {word} ({answer.confidence:.2f})"


def guess(answer: Answer) -> str:
    """What follows "not answered": the guess, if there is one."""
    return f"; take {answer.text!r} as a guess" if answer.text else ""


def evidence(answer: Answer) -> list[str]:
    """One line per item the answer rests on: a box with its place, a mask with its volumes."""
    lines = []
    for item in answer.evidence:
        values = item.to_dict()
        if values["kind"] == "mask":
            lines += [f"{label['name']}: {label['ml']:.1f} ml" for label in values["labels"].values()]
            continue
        low, high = (", ".join(f"{v:.0f}" for v in values[corner]) for corner in ("low", "high"))
        line = f"{values['label']}: ({low}) to ({high}) {'RAS mm' if len(values['low']) == 3 else 'px'}"
        line += "" if values["slice"] is None else f", slice {values['slice'] + 1}"
        lines.append(line + ("" if values["score"] is None else f", score {values['score']:.2f}"))
    return lines
