"""Questions in other words: the data sets ask in few ways, people do not."""

from __future__ import annotations

import re

import torch

__all__ = ["Rewording"]


class Rewording:
    """Asks a share of the questions in other words; `ways` maps a pattern to sentences with its groups."""

    def __init__(self, ways: dict[str, list[str]], *, share: float) -> None:
        self.ways = {re.compile(pattern, re.IGNORECASE): sentences for pattern, sentences in ways.items()}
        self.share = share

    def __call__(self, question: str, generator: torch.Generator) -> str:
        if torch.rand((), generator=generator) < self.share:
            for pattern, sentences in self.ways.items():
                if found := pattern.fullmatch(question):
                    return sentences[int(torch.randint(len(sentences), (), generator=generator))].format(
                        *found.groups()
                    )
        return question
