"""What every reader of data sets needs of paths."""

from __future__ import annotations

from pathlib import Path

from medfm.errors import DataError

__all__ = ["check_exists", "stem"]


def check_exists(path: Path) -> None:
    """Raise DataError where nothing is at `path`."""
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder")


def stem(path: Path) -> str:
    """The name of a file without its ending, of two parts where it is compressed: scan.nii.gz -> scan."""
    return path.name.removesuffix(".gz").rsplit(".", 1)[0]
