"""What is truly in a picture, as findings: told by the boxes drawn on it and the answers given about it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from medfm.language.vocabulary import LESIONS, ORGANS, term_of
from medfm.language.wording import read
from medfm.scan import Finding
from medfm.scan.report import Side

__all__ = ["Truth", "side_of", "true_findings"]

_MIDLINE = 0.1  # a structure lies on a side when its middle is so far from the picture's, as a share of the width
_CONTAINS = re.compile(r"does the (?:picture|image) contain (?:the )?(.+?)\?")
_STATE = re.compile(
    r"(?:is|are|does|do) (?:the |this )?(?P<what>.+?) (?:look |appear )?"
    r"(?P<state>not healthy|healthy|unhealthy|normal|abnormal)(?: appearing)?\b.*\?"
)
_ANY = re.compile(r"(?:are there|does the patient have) (?:any )?abnormalities(?: in this image)?\?")
_OBSERVED = re.compile(r"can (?P<what>.+?) be observed(?: (?:on|in) the (?P<where>.+?))?(?: in (?:this|the) .*)?\?")


@dataclass(frozen=True)
class Truth:
    """findings: present ones, and absent ones where somebody said so. organs_drawn: organs in view have boxes here, so
    that one without a box is not in view; lesions without a box or an answer are never there."""

    findings: tuple[Finding, ...]
    organs_drawn: bool


def side_of(middle: float, *, width: float) -> Side:
    """The patient's side of a column in radiological display, where the picture's left is the patient's right."""
    away = middle / width - 0.5
    return "midline" if abs(away) < _MIDLINE / 2 else "left" if away > 0 else "right"


def true_findings(
    rows: Sequence[Mapping[str, Any]], boxes: Sequence[tuple[str, Sequence[float]]], *, width: int
) -> Truth:
    """Findings of one picture.

    rows: {"question", "answer"} about it. boxes: (label, [x, y, width, height]) in pixels. width: of the picture.
    A box gives the side, in radiological display; in a sagittal picture there is none. A lesion that only an answer
    names has no side unless the question gives it. "Abnormal" counts only where no lesion is known by name.
    """
    said = [(" ".join(str(r["question"]).lower().split()), " ".join(str(r["answer"]).lower().split())) for r in rows]
    sagittal = any("sagittal" in answer or ("sagittal" in question and answer == "yes") for question, answer in said)
    drawn: dict[tuple[Any, ...], Finding] = {}
    for label, (x, _, w, _) in boxes:
        finding, organ, side = term_of(label)
        if finding in LESIONS and LESIONS[finding].sided and not sagittal:
            side = side_of(x + w / 2, width=width)
        one = Finding(finding, organ, cast("Side | None", side))
        drawn[one.fact] = one
    found = list(drawn.values())
    known = {(f.finding, f.organ) for f in found}
    for one in (f for question, answer in said for f in _told(question, answer)):
        if one.finding != "abnormality" and (one.finding, one.organ) not in known:
            known.add((one.finding, one.organ))
            found.append(one)
    named = any(f.present and f.finding in LESIONS for f in found)
    general = [f for question, answer in said for f in _judged(question, answer)]
    if not named:
        found += _first_of_each(general)
    else:
        ill = {f.organ for f in found if f.finding in LESIONS} | {None}
        ill |= {"lung"} if "pleura" in ill else set()
        found += _first_of_each([f for f in general if not f.present and f.organ not in ill])
    return Truth(tuple(found), any(f.finding == "in view" for f in drawn.values()))


def _told(question: str, answer: str) -> Iterator[Finding]:
    """Organs in view or not, and lesions by name."""
    if (asked := _CONTAINS.fullmatch(question)) and answer in ("yes", "no"):
        organ = asked[1].replace("brian", "brain").removesuffix("s")
        if organ in ORGANS:
            yield Finding("in view", organ, None, answer == "yes")
    elif question.startswith("what diseases are included"):
        yield from read(f"there is {answer}")
    elif (seen := _OBSERVED.fullmatch(question)) and answer == "yes":
        yield from (f for f in read(f"there is {seen['what']} on the {seen['where']}") if f.finding in LESIONS)


def _judged(question: str, answer: str) -> Iterator[Finding]:
    """Normal or not: the whole picture, or one organ."""
    if question.startswith("what diseases are included") and answer == "none":
        yield Finding("abnormality", None, None, False)
    elif answer not in ("yes", "no"):
        return
    elif _ANY.fullmatch(question):
        yield Finding("abnormality", None, None, answer == "yes")
    elif asked := _STATE.fullmatch(question):
        ill = asked["state"] in ("not healthy", "unhealthy", "abnormal")
        organ = asked["what"].replace("brian", "brain").removesuffix("s")
        if organ in ORGANS or organ in ("image", "picture"):
            yield Finding("abnormality", organ if organ in ORGANS else None, None, (answer == "yes") == ill)


def _first_of_each(findings: Sequence[Finding]) -> list[Finding]:
    """One finding an organ; an organ called abnormal makes "there is an abnormality" superfluous."""
    kept: dict[str | None, Finding] = {}
    for one in findings:
        kept.setdefault(one.organ, one)
    if len(kept) > 1 and None in kept and any(f.present for organ, f in kept.items() if organ):
        del kept[None]
    return list(kept.values())
