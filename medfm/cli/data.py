"""`medfm data check`: what is wrong with a manifest, row by row, before anything is trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfm.cli.app import app

if TYPE_CHECKING:
    from medfm.data.check import Checked

__all__ = ["Data", "check", "shorter", "show_problems", "toy"]

Data = Annotated[
    str,
    typer.Argument(help="JSONL, CSV, a folder, or hf:NAME of a Hugging Face data set.", metavar="DATA"),
]
_data = typer.Typer(help="Look after data of your own.", no_args_is_help=True)
app.add_typer(_data, name="data")


@_data.command("check")
def check(
    data: Data,
    rows: Annotated[int, typer.Option(min=1, help="How many kinds of problems are shown.", metavar="N")] = 40,
) -> None:
    """Read every row and image; list what is unreadable, misplaced, double, leaking or identifying. Code 1 if any."""
    from medfm.data.check import check as look

    found = look(data)
    show_problems(found, limit=rows)
    if found.bad:
        raise typer.Exit(1)


def show_problems(found: Checked, *, limit: int = 40) -> None:
    """Counts on one line, then the problems on stdout, those that cost a row first; the same problem is one line."""
    from collections import Counter

    from medfm.cli import show

    patients = f"{found.patients} patients" if found.patients else "no patient named: every image counts as one"
    if found.patients == 1:
        patients = "one patient for all: no scan can be held out to measure on"
    show.note(f"{found.rows} rows, {found.images} images ({found.volumes} volumes), {patients}")
    if not found.problems:
        show.note("nothing is wrong with them")
        return
    same: dict[tuple[bool, str, str], list[str]] = {}
    for problem in sorted(found.problems, key=lambda p: not p.bad):
        same.setdefault((problem.bad, problem.kind, problem.text), []).append(problem.where)
    for (bad, kind, text), places in list(same.items())[:limit]:
        cost = "left out" if bad else "usable"
        print(show.printable(f"{shorter(places)}: {text.strip()} [{kind}, {cost}]"))
    counts = Counter(p.kind for p in found.problems)
    show.note(", ".join(f"{kind}: {count}" for kind, count in sorted(counts.items())))
    if len(same) > limit:
        show.note(f"{len(same) - limit} lines more; see all with `medfm data check --rows {len(same)}`")
    if found.bad:
        show.note(f"{len(found.bad)} of {found.rows} rows cannot or must not be used")


def shorter(places: list[str]) -> str:
    """ "m.csv, line 2", "m.csv, line 3", "m.csv, line 7" as "m.csv, lines 2-3, 7"; of other places the first."""
    heads = {place.rpartition(" ")[0] for place in places}
    numbers = [int(last) for place in places if (last := place.rpartition(" ")[2]).isdigit()]
    if len(heads) > 1 or len(numbers) < len(places):
        return places[0] + (f" and {len(places) - 1} more" if len(places) > 1 else "")
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return f"{heads.pop()}{'s' if len(numbers) > 1 else ''} " + ", ".join(
        f"{a}" if a == b else f"{a}-{b}" for a, b in runs
    )


@_data.command("toy")
def toy(folder: Annotated[Path, typer.Argument(help="A new folder.", metavar="DIR")]) -> None:
    """Write small made-up data sets, one for each kind of task, and print what to try on them."""
    from medfm.cli import show
    from medfm.data.toy import write_toys
    from medfm.errors import ConfigError

    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; choose another folder")
    made = write_toys(folder)
    for name, path in made.items():
        typer.echo(f"{name}\t{path}")
    show.note("tasks/README.md says which recipe runs on which")
