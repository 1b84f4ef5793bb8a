"""Every row of a manifest looked at before anything starts: what is wrong, where, and whether it can be used."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medfm.data.manifest import REQUEST, Row, parse, raw_rows, read_scans
from medfm.errors import DataError, MedfmError
from medfm.scan import Scan

__all__ = ["Checked", "Problem", "check", "identifiers"]

_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
_LOOKS_LIKE = {
    "a date": rf"\b\d{{1,2}}[./-]\d{{1,2}}[./-](?:19|20)?\d\d\b|\b(?:19|20)\d\d[./-]\d{{1,2}}[./-]\d{{1,2}}\b"
    rf"|\b\d{{1,2}}\.? {_MONTH} (?:19|20)\d\d\b|\b{_MONTH} \d{{1,2}},? (?:19|20)\d\d\b",
    "a record number": r"\b(?:mrn|patient[ -]?id|pat\.? ?id|accession|case no|record no)\b\W{0,3}\w*\d\w*|\b\d{7,}\b",
    "a telephone number": r"(?<![\d.])\+?\(?\d{2,4}\)?[ /-]\d{3,4}[ -]\d{3,6}\b|\+\d{7,}",
    "an e-mail address": r"\b[\w.+-]+@[\w-]+\.\w{2,}\b",
    "a name": r"\b(?:(?:Mr|Mrs|Ms|Miss|Dr|Prof)\.? |(?i:patient(?:'s)? name|name|patient|signed by|dictated by)\s*: ?)"
    r"[A-Z][\w'-]+(?: [A-Z][\w'-]+)*|\b[A-Z]{2,}\^[A-Z]{2,}\b",
}  # fmt: skip
_PATTERNS = {kind: re.compile(text, 0 if kind == "a name" else re.IGNORECASE) for kind, text in _LOOKS_LIKE.items()}


@dataclass(frozen=True)
class Problem:
    """where: the row. bad: the row cannot or must not be used; else it is only worth knowing."""

    where: str
    kind: str
    text: str
    bad: bool


@dataclass(frozen=True)
class Checked:
    """What was counted, and every problem in the order of the rows. questions, reports: places of rows of each kind."""

    rows: int
    images: int
    patients: int
    volumes: int
    problems: list[Problem]
    questions: list[str]
    reports: list[str]

    @property
    def bad(self) -> list[str]:
        """Places of the rows that have to be left out."""
        return list(dict.fromkeys(p.where for p in self.problems if p.bad))


def check(source: str | Path) -> Checked:
    """Read every row and every image of `source` once.

    Raises:
        DataError: there is no manifest.
    """
    look = _Check()
    for raw in raw_rows(source):
        look.rows += 1
        try:
            row = parse(raw)
        except DataError as error:
            look.add(raw.where, "row", str(error).removeprefix(f"{raw.where}: "), bad=True)
            continue
        look.row(row)
    look.sides()
    asked, told = ([r.where for r, _ in look.placed if (r.question == REQUEST) == wrote] for wrote in (False, True))
    return Checked(look.rows, len(look.content), len(look.patients), look.volumes, look.problems, asked, told)


def identifiers(text: str) -> Iterator[tuple[str, str]]:
    """What in a text looks like a name, a date, a number of a person; (kind, the text with most of it hidden)."""
    for kind, pattern in _PATTERNS.items():
        for found in pattern.finditer(text):
            shown = found[0]
            yield kind, shown[:3] + "*" * min(8, len(shown) - 3)


class _Check:
    def __init__(self) -> None:
        self.rows = self.volumes = 0
        self.problems: list[Problem] = []
        self.read: dict[str, tuple[str, tuple[int, ...]] | Problem] = {}  # images -> pixels' hash and shape
        self.content: dict[str, set[str]] = defaultdict(set)  # pixels' hash -> images
        self.patients: set[str] = set()
        self.asked: dict[tuple[str, str], tuple[str, str]] = {}  # pixels' hash and question -> where, answer
        self.placed: list[tuple[Row, str]] = []

    def add(self, where: str, kind: str, text: str, *, bad: bool) -> None:
        self.problems.append(Problem(where, kind, text, bad))

    def row(self, row: Row) -> None:
        if row.key not in self.read:
            self.read[row.key] = self._image(row)
        image = self.read[row.key]
        if isinstance(image, Problem):
            self.problems.append(replace(image, where=row.where))
            return
        content, shape = image
        self.patients |= {row.patient} - {""}
        self.placed.append((row, content))
        self._place(row, shape)
        self._words(row, content)

    def _image(self, row: Row) -> tuple[str, tuple[int, ...]] | Problem:
        try:
            scans = read_scans(row)
        except MedfmError as error:
            return Problem(row.where, "unreadable", str(error), bad=True)
        for scan in scans:
            if float(np.ptp(scan.data)) == 0:
                return Problem(row.where, "empty image", "every pixel has the same value", bad=True)
            if min(scan.data.shape[2:]) < 32:
                self.add(row.where, "geometry", f"only {scan.data.shape[3]} x {scan.data.shape[2]} pixels", bad=False)
            if scan.frame == "patient" and not scan.spacing_known:
                self.add(row.where, "geometry", "a volume without voxel size in its header", bad=False)
            for note in scan.notes:
                self.add(row.where, "geometry", note, bad=False)
        self.volumes += any(scan.data.shape[1] > 1 for scan in scans)
        content = " ".join(scan.content_hash for scan in scans)
        if other := next(iter(self.content[content]), None):
            self.add(row.where, "duplicate", f"the same pixels as {_short(other)}", bad=False)
        self.content[content].add(row.key)
        return content, scans[0].data.shape

    def _place(self, row: Row, shape: tuple[int, ...]) -> None:
        depth, height, width = shape[1:]
        for label, (x, y, w, h) in row.boxes:
            if x < 0 or y < 0 or x + w > width or y + h > height:
                self.add(row.where, "geometry", f"box {label!r} leaves the image of {width} x {height}", bad=True)
        if row.mask is None:
            return
        try:
            mask = Scan.read(row.mask)
        except MedfmError as error:
            self.add(row.where, "unreadable", f"mask: {error}", bad=True)
            return
        if mask.data.shape[1:] != (depth, height, width):
            size, own = (" x ".join(map(str, s[::-1])) for s in (mask.data.shape[1:], shape[1:]))
            self.add(row.where, "geometry", f"the mask has {size} voxels, the image {own}", bad=True)

    def _words(self, row: Row, content: str) -> None:
        for text in (row.question, row.answer, row.context):
            for kind, shown in identifiers(text):
                self.add(row.where, "identifier", f"{shown!r} looks like {kind}", bad=True)
        where, answer = self.asked.setdefault((content, row.question.lower()), (row.where, row.answer))
        if where == row.where:
            return
        if answer.lower() == row.answer.lower():
            self.add(row.where, "duplicate", f"the same image, question and answer as {_short(where)}", bad=False)
        else:
            self.add(row.where, "duplicate", f"another answer to the question of {_short(where)}", bad=False)

    def sides(self) -> None:
        """Patients and pictures that stand on both sides: what is asked of the model there would be known to it."""
        trained: dict[tuple[str, str], str] = {}
        for row, content in self.placed:
            if row.side == "train":
                trained.setdefault(("patient", row.patient), row.where)
                trained.setdefault(("image", content), row.where)
        for row, content in self.placed:
            if row.side in ("", "train"):
                continue
            for what, key in (("patient", row.patient), ("image", content)):
                if key and (other := trained.get((what, key))):
                    self.add(
                        row.where, "both sides", f"its {what} is also in training, see {_short(other)}", bad=True
                    )  # fmt: skip
                    break


def _short(where: str) -> str:
    """The end of a path says enough in a table."""
    return where if len(where) < 50 else f"...{where[-47:]}"
