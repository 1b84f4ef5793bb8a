"""Folders and DICOMDIR: their files found safely and read as one scan, without repeating a name that is inside."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from medfm.errors import ScanError, SeriesChoice
from medfm.scan.kinds import kind_of
from medfm.scan.limits import MAX_FILES
from medfm.scan.raw import RawScan, Request

__all__ = ["directory_files", "read_folder"]

_KIND_NAMES = {"picture": "picture", "nifti": "NIfTI", "npy": "NPY or NPZ array", "itk": "NRRD or MetaImage"}


def read_folder(folder: Path, request: Request, read_file: Callable[[Path, Request], RawScan]) -> RawScan:
    """Read the DICOM series of a folder and the folders below it, or with `read_file` its only (or chosen) file."""
    from medfm.scan.dicom_series import read_dicom

    paths = _walk(folder, request)
    kinds = {path: _kind(path) for path in paths}
    dicom = [path for path, kind in kinds.items() if kind == "dicom" and path.name.upper() != "DICOMDIR"]
    if dicom:
        skipped = sum(kind != "dicom" for kind in kinds.values())
        notes = [f"{skipped} files that are not DICOM were skipped."] if skipped else []
        return read_dicom(dicom, request, notes)
    others = [path for path, kind in kinds.items() if kind in _KIND_NAMES]
    if not others:
        raise ScanError(_nothing(kinds, request))
    raw = read_file(others[_number(others, kinds, request)], _inner(request, others))
    if len(others) < len(paths):
        raw.notes.append(f"{len(paths) - len(others)} files that are not scans were skipped.")
    return raw


def _inner(request: Request, others: list[Path]) -> Request:
    """`series` has done its work when it chose among several files."""
    return request if len(others) == 1 else Request(request.shown, None, request.frame, request.spacing)


def _number(others: list[Path], kinds: dict[Path, str], request: Request) -> int:
    """Which of the files to read."""
    if len(others) == 1:
        return 0
    if request.series is not None and str(request.series).isdigit() and int(request.series) < len(others):
        return int(request.series)
    listed = [f"{_KIND_NAMES[kinds[path]]}, {path.stat().st_size / 1024:.0f} KB" for path in others]
    raise SeriesChoice(f"{request.shown}: {len(others)} scans (in name order)", listed)


def _walk(folder: Path, request: Request) -> list[Path]:
    """All regular files below, in name order; links to folders are not followed, so loops cannot happen."""
    found: list[Path] = []
    for root, below, names in os.walk(folder, followlinks=False):
        below.sort()
        found += [Path(root, name) for name in sorted(names) if not name.startswith(".")]
        if len(found) > MAX_FILES:
            raise ScanError(f"{request.shown}: more than {MAX_FILES} files. Give the folder of one examination.")
    return [path for path in found if path.is_file()]


def _kind(path: Path) -> str:
    """`kind_of`, with an unreadable file as one of no kind."""
    try:
        return kind_of(path)
    except OSError:
        return "unknown"


def _nothing(kinds: dict[Path, str], request: Request) -> str:
    """Say why nothing can be read."""
    if not kinds:
        return f"{request.shown}: there are no files in it. Give a folder or zip with a scan."
    counts = Counter(kinds.values())
    if counts["zip"]:
        return (
            f"{request.shown}: {counts['zip']} zip archives inside and no scan beside them. Unpack the inner one first."
        )
    return f"{request.shown}: {len(kinds)} files ({counts['empty']} of them empty), none of a kind that is read."


def directory_files(path: Path, request: Request) -> list[Path] | None:
    """The images that a DICOMDIR lists, or None when the file is not a DICOMDIR."""
    import pydicom

    try:
        header = pydicom.dcmread(path, force=True, specific_tags=["DirectoryRecordSequence"], stop_before_pixels=True)
        records = header.get("DirectoryRecordSequence")
        if records is None:
            return None
        names = [record.get("ReferencedFileID") for record in records]
    except Exception:  # damaged: the reader of single files says so
        return None
    base = path.parent.resolve()
    found = []
    for name in names:
        if not name:
            continue
        parts = [name] if isinstance(name, str) else [str(part) for part in name]
        for candidate in (base.joinpath(*parts), base.joinpath(*(part.lower() for part in parts))):
            if base in candidate.resolve().parents and candidate.is_file():
                found.append(candidate)
                break
    if not found:
        raise ScanError(
            f"{request.shown}: none of the files that this DICOMDIR lists is beside it. Give the whole folder."
        )
    return found
