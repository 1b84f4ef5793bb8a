"""Figures of `metrics.json` as cells of a Markdown table: what the table scripts of several tasks share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["interval", "metrics", "minutes", "print_table", "with_ablation"]


def metrics(folder: Path) -> dict[str, Any]:
    """What an evaluation left in `folder`."""
    read: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return read


def with_ablation(words: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The metrics of FIGURES[=ABLATION], two folders: of a network, and of it without what its paper is about."""
    whole, _, ablation = words.partition("=")
    return metrics(Path(whole)), metrics(Path(ablation)) if ablation else None


def interval(figure: dict[str, float], *, digits: int = 3) -> str:
    """A mean with its 95 % interval."""
    low, high = figure["low"], figure["high"]
    return f"{figure['value']:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def minutes(runs: Path | None, name: str) -> str:
    """What the training `runs/name` took, as its last checkpoint says; empty where there is none."""
    if runs is None or not (file := runs / name / "checkpoint" / "progress.json").exists():
        return ""
    return f"{json.loads(file.read_text())['spent'] / 60:.1f}"


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """To stdout, as Markdown."""
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
