"""Folders, DICOMDIR and zip archives: found safely, read as one scan, without repeating a name that is inside."""

from __future__ import annotations

import os
from pathlib import Path

from medfm.errors import ScanError, SeriesChoice
from medfm.scan.files import kind_of, read_file
from medfm.scan.limits import MAX_FILES
from medfm.scan.raw import RawScan, Request

__all__ = ["read_folder", "read_zip"]


def read_folder(folder: Path, request: Request) -> RawScan:
    """Read the DICOM series of a folder and the folders below it, or its only other file."""
    return _read_paths(_walk(folder, request), request)


def _walk(folder: Path, request: Request) -> list[Path]:
    """All regular files below, in name order; links to folders are not followed, so loops cannot happen."""
    found: list[Path] = []
    for root, below, names in os.walk(folder, followlinks=False):
        below.sort()
        found += [Path(root, name) for name in sorted(names) if not name.startswith(".")]
        if len(found) > MAX_FILES:
            raise ScanError(f"{request.shown}: more than {MAX_FILES} files. Give the folder of one examination.")
    return [path for path in found if path.is_file()]


def _read_paths(paths: list[Path], request: Request) -> RawScan:
    """One scan out of loose files: DICOM first, else the only (or the chosen) other file."""
    from medfm.scan.dicom_series import read_dicom

    kinds = {path: kind_of(path) for path in paths}
    dicom = [path for path, kind in kinds.items() if kind == "dicom" and path.name.upper() != "DICOMDIR"]
    others = [path for path, kind in kinds.items() if kind not in ("dicom", "unknown", "empty", "zip")]
    skipped = len(paths) - len(dicom) - len([p for p in paths if p.name.upper() == "DICOMDIR"])
    if dicom:
        notes = [f"{skipped} other files were skipped."] if skipped else []
        return read_dicom(dicom, request, notes)
    if not others:
        raise ScanError(f"{request.shown}: {len(paths)} files, none of them a scan that can be read.")
    if len(others) > 1 and request.series is None:
        listed = [f"{kinds[path]}, {path.stat().st_size / 1024:.0f} KB" for path in others]
        lines = "\n".join(f"  {number}: {text}" for number, text in enumerate(listed[:50]))
        raise SeriesChoice(f"{request.shown}: {len(others)} scans; choose with series=NUMBER:\n{lines}", listed)
    number = 0 if request.series is None else int(request.series) if str(request.series).isdigit() else -1
    if not 0 <= number < len(others):
        raise ScanError(f"{request.shown}: series={request.series!r} does not exist; there are {len(others)}.")
    raw = read_file(others[number], request)
    if len(others) < len(paths):
        raw.notes.append(f"{len(paths) - len(others)} other files were skipped.")
    return raw


def read_zip(path: Path, request: Request) -> RawScan:
    """Placeholder until the archive reader lands in the next commit."""
    raise ScanError(f"{request.shown}: zip archives are not read yet.")
