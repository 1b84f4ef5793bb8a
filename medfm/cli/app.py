"""The typer application that every module of commands hangs its own on, and the options they share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

__all__ = ["Adapter", "Plane", "Series", "app", "chosen_series", "evaluate"]

app = typer.Typer(
    name="medfm",
    help="Ask about a medical scan, chat with it, train on your own. Assists; does not diagnose.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # an unexpected error keeps Python's own traceback
    context_settings={"help_option_names": ["-h", "--help"]},
)
evaluate = typer.Typer(help="Measure a model on data with known answers.", no_args_is_help=True)
app.add_typer(evaluate, name="evaluate")


class Plane(StrEnum):
    """The three planes a volume can be cut in."""

    axial = "axial"
    coronal = "coronal"
    sagittal = "sagittal"


Adapter = Annotated[str, typer.Option(help="A name from `medfm models`, or a folder.", metavar="NAME")]
Series = Annotated[str | None, typer.Option(help="Which series, by number or UID, if there are several.")]


def chosen_series(series: str | None) -> int | str | None:
    """What was typed as --series: a short number counts in the list of series, anything else is a UID."""
    return int(series) if series is not None and series.isdecimal() and len(series) < 6 else series
