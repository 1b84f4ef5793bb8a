"""Rows of a question-answer data set, and the record that an evaluation keeps of each."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medfm.errors import DataError
from medfm.metrics import normalise_answer

__all__ = ["Row", "file_hash", "most_frequent_answers", "read_records", "read_rows", "write_records"]


@dataclass(frozen=True)
class Row:
    """One question about one image. `image` is relative to the data file; `extra` holds its other keys."""

    number: int
    image: str
    question: str
    answer: str
    answer_type: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def read_rows(path: Path, *, limit: int | None = None) -> list[Row]:
    """Read a JSONL file of {"image", "question", "answer", "answer_type"?, ...}, in order.

    Raises:
        DataError: no such file, no rows, or a line that is not such an object (the line is named).
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected JSON lines with image, question and answer.")
    rows: list[Row] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if limit is not None and len(rows) >= limit:
            break
        if line.strip():
            rows.append(_row(path, number, line, len(rows)))
    if not rows:
        raise DataError(f"{path}: found no rows; expected JSON lines with image, question and answer.")
    return rows


def _row(path: Path, line_number: int, line: str, number: int) -> Row:
    try:
        values = json.loads(line)
        image, question, answer = (str(values.pop(key)) for key in ("image", "question", "answer"))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(
            f"{path}, line {line_number}: expected an object with image, question and answer; found {line[:80]!r}."
        ) from error
    kind = values.pop("answer_type", None)
    return Row(number, image, question, answer, None if kind is None else str(kind).upper(), values)


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def most_frequent_answers(rows: Sequence[Row], *, learned_on: Sequence[Row] | None) -> list[str]:
    """For each row, what somebody who never looks at the image would say: the most frequent answer to that question.

    A question that was never met gets the most frequent answer of its answer type, then of all rows.
    With `learned_on=None` each row is answered from the rows of all *other* images (leave one image out).
    """
    tables = _count(rows if learned_on is None else learned_on)
    own: dict[str, dict[Any, Counter[str]]] = {}
    if learned_on is None:
        by_image = defaultdict(list)
        for row in rows:
            by_image[row.image].append(row)
        own = {image: _count(members) for image, members in by_image.items()}
    return [_most_frequent(row, tables, own.get(row.image, {})) for row in rows]


def _keys(row: Row) -> tuple[Any, ...]:
    """Where a row is counted, and in this order looked up: its question, its answer type, everything."""
    return (("question", normalise_answer(row.question)), ("type", row.answer_type), "all")


def _count(rows: Iterable[Row]) -> dict[Any, Counter[str]]:
    tables: dict[Any, Counter[str]] = defaultdict(Counter)
    for row in rows:
        for key in _keys(row):
            tables[key][normalise_answer(row.answer)] += 1
    return tables


def _most_frequent(row: Row, tables: dict[Any, Counter[str]], minus: dict[Any, Counter[str]]) -> str:
    for key in _keys(row):
        left = tables.get(key, Counter()) - minus.get(key, Counter())
        if left:
            return min(left, key=lambda answer: (-left[answer], answer))
    return ""


def read_records(path: Path) -> list[dict[str, Any]]:
    """Records of an earlier run; a last line cut off by a crash is dropped."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").split("\n"):  # splitlines() would also break at U+2028 inside a string
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def write_records(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write all records, replacing the file in one step so that a crash leaves the old one."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    temporary.replace(path)
