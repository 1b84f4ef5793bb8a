"""What a terminal shows beside the answers themselves: all of it on stderr, so that stdout can be piped."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from medfm.cli.doctor import Finding
    from medfm.errors import SeriesChoice
    from medfm.scan import Answer, Scan

__all__ = [
    "adapters",
    "confidence",
    "disclaimer",
    "evaluation",
    "evidence",
    "failure",
    "findings",
    "note",
    "printable",
    "prompt",
    "question",
    "scan",
    "series_choice",
    "waiting",
]

_MARKS = {"ok": "[green]ok[/]", "warning": "[yellow]note[/]", "missing": "[bold red]missing[/]"}


def _err() -> Console:
    return Console(file=sys.stderr, highlight=False)


def printable(text: str) -> str:
    """Without control characters: neither a file header nor a model may steer the terminal."""
    return "".join(char for char in text if char in "\n\t" or char.isprintable())


def _safe(text: str) -> str:
    return escape(printable(text))


def failure(message: str) -> None:
    _err().print(f"[bold red]error:[/] [red]{_safe(message)}[/]", soft_wrap=True)


def note(message: str) -> None:
    _err().print(_safe(message), soft_wrap=True)


def series_choice(error: SeriesChoice) -> None:
    """The series as a numbered table, and how to choose one."""
    failure(str(error))
    table = Table("--series", "what it is")
    for number, choice in enumerate(error.choices):
        table.add_row(str(number), _safe(choice))
    _err().print(table)
    _err().print("Choose one by its number: medfm ask FILE --series N ...")


def scan(scan: Scan) -> None:
    """One line on what was read, then its warnings. Estimates are marked with a question mark."""

    def known(name: str, value: str | None) -> str:
        return "" if not value else value + ("?" if name in scan.estimated else "")

    facts = [known(name, getattr(scan, name)) for name in ("modality", "body_part", "plane")]
    size = " x ".join(str(side) for side in reversed(scan.data.shape[1:]) if side > 1)
    spacing = " x ".join(f"{mm:.2g}" for mm in scan.spacing) + " mm" if scan.spacing_known else "spacing not known"
    _err().print(f"[dim]{_safe(', '.join([*filter(None, facts), size, spacing]))}[/]", soft_wrap=True)
    for warning in scan.notes:
        _err().print(f"[yellow]note:[/] {_safe(warning)}", soft_wrap=True)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """A spinner on a terminal, nothing in a log."""
    with _err().status(what):
        yield


def prompt() -> None:
    sys.stderr.write("? ")
    sys.stderr.flush()


def question(text: str) -> None:
    _err().print(f"[bold]{_safe(text)}[/]", soft_wrap=True)


def confidence(answer: Answer) -> None:
    """How sure the model is, in words and as a number; an abstention looks different from an answer."""
    if answer.abstained:
        reason = f": {_safe(answer.reason)}" if answer.reason else ""
        _err().print(
            f"  [bold yellow]not answered[/]{reason}; take {_safe(repr(answer.text))} as a guess", soft_wrap=True
        )
    elif answer.confidence is None:
        _err().print("  [dim]confidence not known[/]")
    else:
        _err().print(f"  [dim]confidence {_in_words(answer.confidence)} ({answer.confidence:.2f})[/]")


def _in_words(confidence: float) -> str:
    return next(
        word
        for least, word in ((0.9, "high"), (0.7, "moderate"), (0.5, "low"), (0.0, "very low"))
        if confidence >= least
    )


def evidence(answer: Answer) -> None:
    """One line per item the answer rests on."""
    for item in answer.evidence:
        values = item.to_dict()
        if values["kind"] == "box":
            low, high = ([f"{v:.0f}" for v in values[corner]] for corner in ("low", "high"))
            unit = "mm" if len(low) == 3 else "px"
            where = f"({', '.join(low)}) to ({', '.join(high)}) {unit}"
            where += "" if values["slice"] is None else f", slice {values['slice']}"
            where += "" if values["score"] is None else f", score {values['score']:.2f}"
            lines = [f"{values['label']}: {where}"]
        else:
            lines = [f"{label['name']}: {label['ml']:.1f} ml" for label in values["labels"].values()]
        for line in lines:
            _err().print(f"  [dim]evidence: {_safe(line)}[/]", soft_wrap=True)


def disclaimer() -> None:
    _err().print("[dim]medfm assists, it does not diagnose. Check every answer against the images.[/]")


def evaluation(metrics: dict[str, Any], output: Path) -> None:
    """The figures as a table, and where they lie."""
    from medfm.evaluate.score import table

    _err().print(table(metrics))
    note(f"written: {output / 'metrics.json'} and {output / 'predictions.jsonl'}")


def adapters() -> None:
    """Trained adapters and base weights, on stdout: here the table is the answer."""
    from medfm.cli.inventory import base_weights_here, shipped_adapters

    console = Console(highlight=False)
    table = Table("name", "base", "size", "licence", "headline figure", title="adapters", title_justify="left")
    for card in shipped_adapters():
        table.add_row(*(_safe(cell) for cell in (card.name, card.base, card.size, card.licence, card.figure)))
    console.print(table)
    if not table.row_count:
        console.print("none are here: train one with `medfm train`.")
    table = Table("name", "here", title="base weights", title_justify="left")
    for name, here in base_weights_here().items():
        table.add_row(_safe(name), "yes" if here else "no, fetched when first needed")
    console.print(table)


def findings(found: Sequence[Finding], *, as_json: bool) -> bool:
    """Show what the examination found, on stdout; true when nothing that is needed is missing."""
    healthy = all(finding.state != "missing" for finding in found)
    if as_json:
        print(json.dumps({"healthy": healthy, "findings": [vars(finding) for finding in found]}, indent=2))
        return healthy
    console = Console(highlight=False)
    table = Table("", "what", "found", "what to do", box=None)
    for finding in found:
        table.add_row(_MARKS[finding.state], _safe(finding.what), _safe(finding.found), _safe(finding.advice))
    console.print(table)
    console.print(
        "[green]Questions can be answered.[/]" if healthy else "[bold red]Questions cannot be answered yet.[/]"
    )
    return healthy
