"""What a terminal shows beside the answers themselves: all of it on stderr, so that stdout can be piped."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from medfm.assistant.words import DISCLAIMER, about_answer, about_scan, evidence, guess

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from medfm.cli.doctor import Finding
    from medfm.errors import SeriesChoice
    from medfm.scan import Answer, Scan

__all__ = [
    "about",
    "adapters",
    "disclaimer",
    "failure",
    "figures",
    "findings",
    "note",
    "picture",
    "printable",
    "prompt",
    "question",
    "scan",
    "series_choice",
    "waiting",
    "warning",
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
    failure(error.found)
    table = Table("--series", "what it is")
    for number, choice in enumerate(error.choices):
        table.add_row(str(number), _safe(choice))
    _err().print(table)
    _err().print("Choose one with --series (register: --moving-series, --fixed-series) and the number on the left.")


def scan(scan: Scan) -> None:
    """One line on what was read, then its warnings."""
    _err().print(f"[dim]{_safe(about_scan(scan))}[/]", soft_wrap=True)
    for note in scan.notes:
        warning(note)


def warning(text: str) -> None:
    _err().print(f"[yellow]note:[/] {_safe(text)}", soft_wrap=True)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """On a terminal what is done, with the time left as soon as the work says how far it is; nothing in a log."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    from medfm.progress import heard_by

    console = _err()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        with heard_by(lambda done, total: bar.update(task, completed=done, total=total)):
            yield


def prompt() -> None:
    sys.stderr.write("? ")
    sys.stderr.flush()


def question(text: str) -> None:
    _err().print(f"[bold]{_safe(text)}[/]", soft_wrap=True)


def about(answer: Answer, *, told: bool = False) -> None:
    """How sure the model is and what the answer rests on; an abstention looks different from an answer.

    told: stdout says already why nothing was answered.
    """
    style = "bold yellow" if answer.abstained else "dim"
    line = f"not answered{guess(answer)}" if told else about_answer(answer)
    _err().print(f"  [{style}]{_safe(line)}[/]", soft_wrap=True)
    for line in evidence(answer):
        _err().print(f"  [dim]evidence: {_safe(line)}[/]", soft_wrap=True)


def disclaimer() -> None:
    _err().print(f"[dim]{DISCLAIMER}[/]")


def figures(table: Table, output: Path, *, cases: str = "cases.jsonl") -> None:
    """The figures of an evaluation as a table, and where they lie; `cases` is the file of what was measured."""
    _err().print(table)
    note(f"written: {output / 'metrics.json'} and {output / cases}")


def picture(pixels: NDArray[np.uint8], path: Path, *, more: str = "") -> None:
    """Write (rows, columns, 3) as PNG or JPEG and say so."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    note(f"written: {path}{more}")


def adapters() -> None:
    """Trained adapters and base weights, on stdout: here the table is the answer."""
    from medfm.cli.inventory import base_weights_here, own_adapters, shipped_adapters

    console = Console(highlight=False)
    table = Table(title="adapters", title_justify="left")
    table.add_column("name", no_wrap=True)  # to be typed as it stands
    for column in ("command: what it knows", "licence", "headline figure"):
        table.add_column(column, overflow="fold")
    for where, cards in (("", shipped_adapters()), (" (yours)", own_adapters())):
        for card in cards:
            cells = (card.name + where, card.use, card.licence, card.figure)
            table.add_row(*(_safe(cell) for cell in cells))
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
