"""The typer application that every module of commands hangs its own on, and the options they share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from medfm.scan import Scan

__all__ = [
    "Adapter",
    "Frame",
    "HeldOut",
    "Plane",
    "Series",
    "app",
    "chosen_series",
    "dicom_files",
    "evaluate",
    "read_scan",
    "written_to",
]

_PANELS = {
    "Ask about a scan": ("ask", "report", "chat"),
    "Measure and improve a scan": ("segment", "register", "detect", "classify", "reconstruct", "synthesize"),
    "Train on your own data": ("data", "finetune", "plan", "train", "evaluate", "adapter"),
    "Look after medfm": ("models", "doctor"),
}


class _Grouped(TyperGroup):
    """Shows the commands under the headings of `_PANELS`, what most people come for first."""

    def __init__(self, *, commands: dict[str, Any] | None = None, **settings: Any) -> None:
        found = commands or {}
        for panel, names in _PANELS.items():
            for name in names:
                found[name].rich_help_panel = panel
        first = {name: found[name] for names in _PANELS.values() for name in names}
        super().__init__(commands=first | found, **settings)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "" in args:  # as a file it would be the current folder, with whatever scans lie there
            raise typer.BadParameter(
                "an argument is empty (a variable without a value?); for the current folder write ."
            )
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Grouped,
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


def written_to(text: str, metavar: str = "DIR") -> Any:
    """The option for what a command writes; that nothing can be written there is told before the work is done."""
    return typer.Option("-o", "--output", help=text, metavar=metavar, callback=_writable)


def picture_of(text: str) -> Any:
    """The option for a picture that a command draws; another kind of file is told before the work is done."""
    return typer.Option("--picture", help=text, metavar="FILE.png", callback=_drawable)


def _drawable(given: Path | None) -> Path | None:
    if given is not None and given.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise typer.BadParameter(f"{given.name}: pictures are written as PNG or JPEG; end the name in .png or .jpg")
    return _writable(given)


def _writable(given: Any) -> Any:
    for path in given if isinstance(given, list) else [given] if given else []:
        there = next(place for place in (path, *path.absolute().parents) if place.exists())
        if there != path and not there.is_dir():
            raise typer.BadParameter(f"{path}: {there} is a file, not a folder")
        if not os.access(there, os.W_OK):
            raise typer.BadParameter(f"{path}: nothing can be written to {there}; choose another place")
    return given


Adapter = Annotated[str, typer.Option(help="A name from `medfm models`, or a folder.", metavar="NAME")]
Series = Annotated[
    str | None,
    typer.Option(help="Of several: the place in the list that medfm shows, from 0, or the UID.", metavar="N|UID"),
]
HeldOut = Annotated[bool, typer.Option("--held-out", help="Only patients that were held out of the model's training.")]
Frame = Annotated[int | None, typer.Option(help="Which frame of a cine loop or 4D series, from 0.", metavar="N")]


def read_scan(file: Path, *, series: str | None, frame: int | None) -> Scan:
    """The scan that FILE, --series and --frame name."""
    import medfm

    return medfm.Scan.read(file, series=chosen_series(series), frame=frame)


@contextmanager
def dicom_files(file: Path, scan: Scan) -> Iterator[list[Path]]:
    """The DICOM files of the very series that was read, for exports that refer to it; a zip is unpacked meanwhile."""
    from tempfile import TemporaryDirectory

    from medfm.assistant.intake import sources

    with TemporaryDirectory() as folder:
        listed = file.parent if file.name.upper() == "DICOMDIR" else file
        yield sources([listed], Path(folder) / "zip", uid=scan.series_uid or None)


def chosen_series(series: str | None) -> int | str | None:
    """What was typed as --series: a short number counts in the list of series, anything else is a UID."""
    return int(series) if series is not None and series.isdecimal() and len(series) < 6 else series
