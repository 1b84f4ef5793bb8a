"""Findings in sentences, and sentences back to findings: the same words for training, drafting and measuring."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import cast

from medfm.language.vocabulary import LESIONS, ORGANS, PAIRED, region_of
from medfm.scan.report import Finding, Side

__all__ = ["facts_of", "read", "write"]

_PLACES = {
    "lung": {"both": "in both lungs", "one": "in the {} lung", "midline": "in the lungs, across the midline"},
    "pleura": {"both": "on both sides", "one": "on the {}", "midline": "near the midline"},
    "brain": {
        "both": "in both cerebral hemispheres",
        "one": "in the {} cerebral hemisphere",
        "midline": "across the midline",
    },
    "brain lesion": {"both": "in both halves of the brain", "one": "in the {} half of the brain"},
}
_LESION = ("There is {name}{place}{size}.", "{Name} is seen{place}{size}.", "{Name} is present{place}{size}.")
_NO_LESION = ("No {name} is seen{place}.", "There is no {name}{place}.", "No evidence of {name}{place}.")
_SHOWN = ("The {organs} {be} in view.", "In view {be} the {organs}.", "The {organs} can be seen.")
_NOT_SHOWN = ("The {organs} {be} not in view.", "The {organs} cannot be seen.")
_NORMAL = ("The {organ} appears normal.", "The {organ} looks healthy.", "The {organ} is unremarkable.")
_ABNORMAL = ("The {organ} appears abnormal.", "There is an abnormality of the {organ}.")
_CLEAR = ("No abnormality is seen.", "There is no abnormality.")
_UNCLEAR = ("There is an abnormality.", "An abnormality is present.")


def write(findings: Sequence[Finding], *, choose: random.Random | None = None) -> list[tuple[str, tuple[Finding, ...]]]:
    """Sentences and, with each, the findings that it states; in the order of body regions.

    The two sides of one finding share a sentence, as do organs of one region that are in view; what has been measured
    in millilitres has a sentence of its own. `choose` draws among ways to say it, for training text; without it the
    first way is taken.
    """
    groups: dict[tuple[object, ...], list[Finding]] = defaultdict(list)
    for number, found in enumerate(findings):
        if found.finding == "in view":
            groups["in view", region_of(found.organ), found.present].append(found)
        else:
            own_side = found.side if found.finding == "abnormality" else None
            alone = None if found.ml is None else number
            groups[found.finding, found.organ, own_side, found.present, alone].append(found)
    sentences = []
    for (kind, *_), members in groups.items():
        text = _shown(members, choose) if kind == "in view" else _stated(members, choose)
        sentences.append((text[0].upper() + text[1:], tuple(members)))
    return sentences


def _pick(ways: Sequence[str], choose: random.Random | None) -> str:
    return ways[0] if choose is None else choose.choice(ways)


def _shown(members: Sequence[Finding], choose: random.Random | None) -> str:
    sides: dict[str, set[str | None]] = defaultdict(set)
    for found in members:
        sides[found.organ or "organ"].add(found.side)
    names = []
    for organ, own in sides.items():
        if own >= {"left", "right"} or "both" in own:
            names.append(f"both {_plural(organ)}")
        else:
            names += [f"{side} {organ}" if side else organ for side in sorted(own, key=str)]
    plural = len(names) > 1 or names[0].startswith("both ")
    ways = _SHOWN if members[0].present else _NOT_SHOWN
    text = _pick(ways, choose).format(organs=_listed(names), be="are" if plural else "is")
    return text.replace("The both", "Both").replace("the both", "both")


def _stated(members: Sequence[Finding], choose: random.Random | None) -> str:
    first = members[0]
    if first.finding == "abnormality":
        if first.organ is None:
            return _pick(_UNCLEAR if first.present else _CLEAR, choose)
        side = f"{first.side} " if first.side else ""
        return _pick(_ABNORMAL if first.present else _NORMAL, choose).format(organ=side + first.organ)
    words = LESIONS[first.finding].words if first.finding in LESIONS else (first.finding,)
    name = words[0]
    if not first.present:
        return _pick(_NO_LESION, choose).format(name=name, place=_place(members))
    sizes = [found.size_mm for found in members if found.size_mm is not None]
    size = f", measuring up to {max(sizes):.0f} mm" if sizes else ""
    name = name if first.ml is None else f"{name} of {first.ml:.1f} ml"
    way = _pick(_LESION, choose)
    return way.format(name=_with_article(name), Name=_with_article(name).capitalize(), place=_place(members), size=size)


def _with_article(name: str) -> str:
    """Things that can be counted take an article; processes do not."""
    counted = name.split(" of ")[0].split()[-1] in (
        "effusion",
        "infiltrate",
        "mass",
        "nodule",
        "pneumothorax",
        "tumour",
        "lesion",
        "region",
    )
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}" if counted else name


def _place(members: Sequence[Finding]) -> str:
    sides = {found.side for found in members} - {None}
    if not sides:
        return ""
    side = "both" if len(sides) > 1 else str(min(sides, key=str))
    places = _PLACES.get(members[0].finding) or _PLACES.get(members[0].organ or "", _PLACES["pleura"])
    return " " + places.get(side, places["one"]).format(side)


def _plural(organ: str) -> str:
    return "teeth" if organ == "tooth" else f"{organ}s"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


_LESION_WORDS = {word: name for name, lesion in LESIONS.items() for word in lesion.words}
_ORGAN_WORDS = {form: organ for organ in ORGANS for form in (organ, _plural(organ))} | {"oesophagus": "esophagus"}


def _any_of(words: Sequence[str]) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


_LESION_AT = re.compile(rf"\b(?<!-)(?:{_any_of(list(_LESION_WORDS))})(?:s|es)?\b")
_SIDES = r"left|right|both|bilateral|midline"
_SIDE_AT = re.compile(rf"\b(?:{_SIDES})\b")
_ORGAN_AT = re.compile(
    rf"\b(?:(?P<one>{_SIDES})\s+(?:and\s+(?P<two>left|right)\s+)?)?(?P<organ>{_any_of(list(_ORGAN_WORDS))})\b"
)
_NEGATED = re.compile(r"\b(?:no|not|cannot|without|absent|nor|free of|neither)\b")


def read(text: str) -> list[Finding]:
    """The findings that a text states: rules for words of `vocabulary`, negation within a clause, the nearest side.

    "Both" gives one finding a side. What the vocabulary does not know is passed over.
    """
    found: dict[tuple[object, ...], Finding] = {}
    for clause in re.split(r"(?:[;\n]|\.(?!\d))+|,?\s+but\s+", text.lower()):
        for one in _read_clause(clause):
            found.setdefault(one.fact, one)
    return list(found.values())


def _read_clause(clause: str) -> Iterator[Finding]:
    present = not _NEGATED.search(clause)
    lesions = list(_LESION_AT.finditer(clause))
    if lesions:
        size = re.search(r"(\d+(?:\.\d+)?)\s*mm\b", clause)
        for place in lesions:
            name = next(_LESION_WORDS[w] for w in _stems(place.group()) if w in _LESION_WORDS)
            for side in _nearest_sides(clause, place) if LESIONS[name].sided else (None,):
                yield Finding(name, LESIONS[name].organ, side, present, float(size.group(1)) if size else None)
        return
    organs: list[tuple[str | None, Side | None]] = [
        organ for place in _ORGAN_AT.finditer(clause) for organ in _sided_organ(place)
    ]
    if re.search(r"\babnormal", clause):
        for organ, side in organs or [(None, None)]:
            yield Finding("abnormality", organ, side, present)
    elif re.search(r"\b(?:normal|healthy|unremarkable)\b", clause):
        for organ, side in organs or [(None, None)]:
            yield Finding("abnormality", organ, side, not present)
    elif re.search(r"\b(?:in view|visible|seen|shown|shows?)\b", clause):
        for organ, side in organs:
            yield Finding("in view", organ, side, present)


def _stems(word: str) -> tuple[str, ...]:
    return (word, word[:-1], word[:-2])


def _nearest_sides(clause: str, place: re.Match[str]) -> tuple[Side | None, ...]:
    """Sides told for one lesion: the first told after it and before the next one, else the last told before it."""
    following = _LESION_AT.search(clause, place.end())
    after = _SIDE_AT.search(clause, place.end(), following.start() if following else len(clause))
    before = list(_SIDE_AT.finditer(clause, 0, place.start()))
    if not after and not before and following:  # "an effusion and atelectasis on the left"
        after = _SIDE_AT.search(clause, place.end())
    chosen = after or (before[-1] if before else None)
    return _spread(chosen.group() if chosen else None)


def _sided_organ(place: re.Match[str]) -> list[tuple[str | None, Side | None]]:
    organ = _ORGAN_WORDS[place["organ"]]
    if organ not in PAIRED:
        return [(organ, None)]
    sides = {*_spread(place["one"]), *(_spread(place["two"]) if place["two"] else ())}
    return [(organ, side) for side in sorted(sides, key=str)]


def _spread(word: str | None) -> tuple[Side | None, ...]:
    if word in ("both", "bilateral"):
        return ("left", "right")
    return (cast("Side | None", word),)


def facts_of(findings: Sequence[Finding]) -> set[tuple[str, str | None, Side | None, bool]]:
    """The distinct facts, with "both" spelled out as left and right."""
    return {(found.finding, found.organ, side, found.present) for found in findings for side in _spread(found.side)}
