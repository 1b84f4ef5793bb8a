"""Facts of a report against the truth: which are right, wrong, on the wrong side, or made up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from medfm.data.truths import Truth
from medfm.language.vocabulary import LESIONS

__all__ = ["Fact", "Judged", "count", "judge"]

Fact = tuple[str, str | None, str | None, bool]  # finding, organ, side, present
Verdict = Literal["right", "wrong", "unknown"]


@dataclass(frozen=True)
class Judged:
    """One reported fact. unknown: the truth does not decide it, so it counts neither way. matched: the true fact it
    states. sided: a side was told and is known; off: it was the wrong one. invented: nothing of the kind is there."""

    verdict: Verdict
    matched: Fact | None = None
    sided: bool = False
    off: bool = False
    invented: bool = False


def judge(fact: Fact, truth: Truth) -> Judged:
    """Strict on kind, organ and side: a lesion without its side is wrong where the side is known.

    A lesion that is neither drawn nor named is not there; an organ without a box is not in view where organs are drawn
    at all. "Abnormal" or "normal" is unknown where only something more special is known that does not contradict it.
    """
    name, organ, side, present = fact
    true: list[Fact] = [f.fact for f in truth.findings]
    if name == "abnormality":
        return _judge_state(fact, true)
    there = [t for t in true if t[:2] == (name, organ) and t[3]]
    denied = [t for t in true if t[:2] == (name, organ) and not t[3]]
    if not present:
        if any(side is None or t[2] in (None, side) for t in there):
            return Judged("wrong")
        return Judged("right", denied[0]) if denied else Judged("unknown")
    if there:
        return _judge_side(fact, there)
    if denied:
        return Judged("wrong", invented=True)
    if name in LESIONS:  # a disease of unknown kind was told of this picture: saying one says at least that
        vague = next((t for t in true if t[0] == "abnormality" and t[3] and t[1] in (None, organ)), None)
        return Judged("right", vague) if vague else Judged("wrong", invented=True)
    return Judged("wrong", invented=True) if truth.organs_drawn else Judged("unknown")


def _judge_side(fact: Fact, there: Sequence[Fact]) -> Judged:
    sides = {t[2] for t in there}
    if None in sides:
        return Judged("right", next(t for t in there if t[2] is None))
    if fact[2] is None:
        return Judged("wrong") if fact[0] in LESIONS else Judged("unknown")
    sided = fact[2] in ("left", "right")
    match = next((t for t in there if t[2] == fact[2]), None)
    if match is None:
        return Judged("wrong", sided=sided, off=sided)
    return Judged("right", match, sided=sided)


def _judge_state(fact: Fact, true: Sequence[Fact]) -> Judged:
    """ "Normal" and "abnormal", of an organ or of the whole picture."""
    _, organ, _, present = fact
    same = next((t for t in true if t[:2] == fact[:2] and t[3] == present), None)
    if same:
        return Judged("right", same)
    ill = any(t[3] and (t[0] in LESIONS or t[0] == "abnormality") and organ in (None, t[1]) for t in true)
    clear = any(t[0] == "abnormality" and not t[3] and t[1] in (None, organ) for t in true)
    if present:
        return Judged("wrong", invented=True) if clear and not ill else Judged("unknown")
    return Judged("wrong") if ill else Judged("unknown")


def count(facts: Iterable[Fact], truth: Truth) -> Mapping[str, Any]:
    """Of one report: right, wrong, missed and unknown facts; sided statements and those on the wrong side; invented.

    Two statements of one true fact count once.
    """
    judged = [judge(fact, truth) for fact in sorted(set(facts), key=str)]
    matched = {j.matched for j in judged if j.verdict == "right"}
    return {
        "right": len(matched),
        "wrong": sum(j.verdict == "wrong" for j in judged),
        "missed": len({f.fact for f in truth.findings} - matched),
        "unknown": sum(j.verdict == "unknown" for j in judged),
        "sided": sum(j.sided for j in judged),
        "off": sum(j.off for j in judged),
        "invented": sum(j.invented for j in judged),
    }
