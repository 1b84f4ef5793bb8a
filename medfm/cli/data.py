"""`medfm data check`: what is wrong with a manifest, row by row, before anything is trained on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from medfm.cli.app import app

if TYPE_CHECKING:
    from medfm.data.check import Checked

__all__ = ["Data", "check", "show_problems"]

Data = Annotated[
    str,
    typer.Argument(help="JSONL, CSV, a folder, or hf:NAME of a Hugging Face data set.", metavar="DATA"),
]
_data = typer.Typer(help="Look after data of your own.", no_args_is_help=True)
app.add_typer(_data, name="data")


@_data.command("check")
def check(
    data: Data,
    rows: Annotated[int, typer.Option(min=1, help="How many problems are shown.", metavar="N")] = 40,
) -> None:
    """Read every row and image; list what is unreadable, misplaced, double, leaking or identifying. Code 1 if any."""
    from medfm.data.check import check as look

    found = look(data)
    show_problems(found, limit=rows)
    if found.bad:
        raise typer.Exit(1)


def show_problems(found: Checked, *, limit: int = 40) -> None:
    """Counts on one line, then the problems as a table on stdout, those that cost a row first."""
    from collections import Counter

    from rich.console import Console
    from rich.table import Table

    from medfm.cli import show

    patients = f"{found.patients} patients" if found.patients else "no patient named: every image counts as one"
    show.note(f"{found.rows} rows, {found.images} images ({found.volumes} volumes), {patients}")
    if not found.problems:
        show.note("nothing is wrong with them")
        return
    table = Table("where", "kind", "what", "row")
    ordered = sorted(found.problems, key=lambda p: not p.bad)
    for problem in ordered[:limit]:
        place, kind, text = (show.printable(t) for t in (problem.where, problem.kind, problem.text))
        table.add_row(place, kind, text, "left out" if problem.bad else "usable", style=None if problem.bad else "dim")
    Console(highlight=False, markup=False).print(table)
    counts = Counter(p.kind for p in found.problems)
    show.note(", ".join(f"{kind}: {count}" for kind, count in sorted(counts.items())))
    if len(ordered) > limit:
        show.note(f"{len(ordered) - limit} more; see all with `medfm data check --rows {len(ordered)}`")
    if found.bad:
        show.note(f"{len(found.bad)} of {found.rows} rows cannot or must not be used")
