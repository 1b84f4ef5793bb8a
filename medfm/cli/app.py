"""The typer application that every module of commands hangs its own on, and the options they share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

__all__ = ["Adapter", "Plane", "app", "evaluate"]

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
