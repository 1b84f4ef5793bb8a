"""Write a report in the form that its file name asks for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from medfm.errors import MedfmError
from medfm.scan import Report, Scan

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FORMATS", "save_report"]

FORMATS = (".md", ".pdf", ".fhir.json", ".json", ".dcm")  # the longer ending first: .fhir.json ends in .json, too


def save_report(
    report: Report, path: str | PathLike[str], *, scan: Scan | None = None, source: Sequence[Path] = ()
) -> None:
    """Write `report` as Markdown, PDF, FHIR bundle, plain JSON or DICOM SR, by the ending of `path`.

    scan: for the key images of a PDF; without it there are none. source: the DICOM files it was read from, which a
    DICOM SR must refer to.

    Raises:
        MedfmError: an unknown ending. ScanError: `.dcm` without readable DICOM files as `source`.
    """
    path = Path(path)
    ending = next((e for e in FORMATS if path.name.lower().endswith(e)), None)
    if ending is None:
        raise MedfmError(f"{path.name}: a report is written as {', '.join(FORMATS)}; choose one of these endings.")
    writers: dict[str, Callable[[], bytes]] = {
        ".md": lambda: _markdown(report),
        ".json": lambda: (json.dumps(report.to_dict(), indent=1, ensure_ascii=False) + "\n").encode(),
        ".pdf": lambda: _pdf(report, scan),
        ".fhir.json": lambda: _fhir(report),
        ".dcm": lambda: _dicom(report, source),
    }
    content = writers[ending]()  # all of it, before the file is touched
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _markdown(report: Report) -> bytes:
    from medfm.export.markdown import markdown

    return markdown(report).encode()


def _pdf(report: Report, scan: Scan | None) -> bytes:
    from medfm.export.pdf import pdf

    return pdf(report, scan=scan)


def _fhir(report: Report) -> bytes:
    from medfm.export.fhir import fhir_bundle

    return (json.dumps(fhir_bundle(report), indent=1, ensure_ascii=False) + "\n").encode()


def _dicom(report: Report, source: Sequence[Path]) -> bytes:
    from medfm.export.dicom_sr import structured_report

    return structured_report(report, source)
