"""Which tool a request wants, told by its words; what is no request for a tool is a question to the model."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Call", "both_sides", "named", "route"]

# An order or a question about size, before anything else: "segment the liver", "how large is the nodule?".
_WANTED = (
    ("align", r"\b(align|register|superimpose|overlay)\b.*\b(prior|previous|current|scans|it)\b"),
    ("denoise", r"\b(denoise|denoising|reconstruct)\b|\b(reduce|remove|take away|clean|less)\b.*\bnoise\b"),
    ("compare", r"\b(compare|comparison|compared)\b|\b(grown|shrunk|changed?|new)\b.*\b(since|prior|previous|last)\b"),
    ("classify", r"\b(classify|classification|what kind of lesion)\b"),
    ("detect", r"\b(detect|detection|find (all|any|every)|mark (all|any|every))\b"),
    ("segment", r"\b(segment|segmentation|outline|contour|delineate|mask)\b"),
    ("measure", r"\b(measure|measurement|diameter|volume of|size of|how (large|big|long|wide|thick))\b"),
    ("report", r"\b(draft|write|make|create|give|generate)\b.*\breport\b|^\W*report\W*$"),
)  # fmt: skip


@dataclass(frozen=True)
class Call:
    """A tool by name, with its arguments."""

    tool: str
    arguments: dict[str, Any] = field(default_factory=dict)


def route(request: str, *, tools: Collection[str], structures: Iterable[str]) -> Call:
    """The tool among `tools` that `request` wants, and of which of `structures`; otherwise the question is asked."""
    words = request.lower()
    for tool, pattern in _WANTED:
        if tool in tools and re.search(pattern, words):
            if tool in ("align", "classify", "denoise", "report"):
                return Call(tool)
            target = named(words, structures) or _object(words)
            return Call(tool, {"structure": target} if target else {})
    return Call("ask", {"question": request})


def named(words: str, structures: Iterable[str]) -> str | None:
    """The longest name of a structure that stands in `words`; a plural is the same thing."""
    said = re.findall(r"[a-z]+", words.lower())
    said += [word[:-1] for word in said if word.endswith("s")]
    found = [name for name in structures if set(re.findall(r"[a-z]+", name.lower())) <= set(said)]
    return max(found, key=len, default=None)


def both_sides(words: str, structures: Iterable[str]) -> list[str]:
    """The left and the right one of a pair, where `words` name the pair ("lungs", "the kidney") and no side."""
    said = set(re.findall(r"[a-z]+", words.lower()))
    said |= {word[:-1] for word in said if word.endswith("s")}
    if said & {"left", "right"}:
        return []
    pairs = [(name, name.lower().split(" ", 1)) for name in structures]
    return [
        name for name, (side, *rest) in pairs
        if side in ("left", "right") and rest and set(rest[0].split()) <= said
    ]  # fmt: skip


def _object(words: str) -> str | None:
    """What follows the verb, without articles: the name of something that no list holds."""
    match = re.search(
        r"(?:segment|outline|detect|find|mark|contour|delineate|measure|compare|(?:volume|size|diameter) of|"
        r"how \w+ (?:is|are))\s+"
        r"(?:the |a |an |this |that |my |all |any |every )*([a-z][a-z -]*)",
        words,
    )
    target = re.split(r"\b(?:with|to|in|on|from|since|and|please)\b", match[1])[0].strip() if match else ""
    return None if target in ("", "it", "prior", "scan", "image") else target
