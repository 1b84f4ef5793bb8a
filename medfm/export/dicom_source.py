"""The DICOM files that a report or mask was made from, as their headers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medfm.errors import ScanError

__all__ = ["read_sources", "series_files"]


def series_files(files: Sequence[Path], uid: str) -> list[Path]:
    """Those of `files` that belong to the series with this UID."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    found = []
    for file in files:
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
        except (InvalidDicomError, OSError):
            continue
        if str(header.get("SeriesInstanceUID", "")) == uid:
            found.append(file)
    return found


def read_sources(paths: Sequence[Path]) -> list[Any]:
    """pydicom data sets of `paths` (files, or folders of them), without pixels, of the series with most images.

    Identifiers that a de-identification left empty are put back from the file's meta header, or, for study, series and
    frame of reference, made from those of the images, the same every time.

    Raises:
        ScanError: there is no DICOM image among them.
    """
    import pydicom
    from pydicom.errors import InvalidDicomError

    files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    series: dict[str, list[Any]] = {}
    for file in files:
        if not file.is_file():
            continue
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True)
        except (InvalidDicomError, OSError):
            continue
        if "Rows" in header and "SeriesInstanceUID" in header:
            series.setdefault(str(header.SeriesInstanceUID), []).append(header)
    if not series:
        raise ScanError(
            f"DICOM export refers to the images it is about; found no DICOM image among {len(files)} files. Export a "
            "scan that was read from DICOM, or choose Markdown, PDF or FHIR."
        )
    largest: list[Any] = max(series.values(), key=lambda headers: len(headers))
    chosen = sorted(largest, key=lambda header: int(header.get("InstanceNumber") or 0))
    _complete(chosen)
    return chosen


def _complete(headers: Sequence[Any]) -> None:
    """Fill what every object that refers to these images must repeat."""
    from pydicom.uid import generate_uid

    for header in headers:
        header.SOPClassUID = header.get("SOPClassUID") or header.file_meta.MediaStorageSOPClassUID
        header.SOPInstanceUID = header.get("SOPInstanceUID") or header.file_meta.MediaStorageSOPInstanceUID
    first = str(headers[0].SOPInstanceUID)
    for header in headers:
        for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
            if not header.get(name):
                setattr(header, name, generate_uid(entropy_srcs=[first, name]))
        for name in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
                     "AccessionNumber", "ReferringPhysicianName"):  # fmt: skip
            if name not in header:
                setattr(header, name, "")
