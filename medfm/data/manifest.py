"""A user's own cases as rows: JSON lines, CSV, a folder of `scan + .txt` pairs, or a Hugging Face data set."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from medfm.errors import DataError
from medfm.prepare import Prepare, Prepared
from medfm.scan import Scan

__all__ = ["REQUEST", "Raw", "Row", "parse", "prepare_stack", "raw_rows", "read_scans"]

REQUEST = "Write the findings."  # what a row with a report and no question is asked
_SIDES = {"train": "train", "validate": "validate", "validation": "validate", "val": "validate",
          "valid": "validate", "training": "train", "test": "test"}  # fmt: skip
_EXPECTED = """expected one of
  a .jsonl, .csv or .tsv file, or a .json file with a list
  a folder with manifest.jsonl, manifest.csv or train.jsonl (and validate.jsonl)
  a folder of scans with a .txt of the same name beside each
  a folder that `Dataset.save_to_disk` wrote
  hf:NAME, a data set of the Hugging Face hub or a folder that `load_dataset` opens"""
_PATIENT = ("patient", "patient_id", "patientid", "subject", "subject_id")  # one word for what keeps the sides apart
_MEANT = {  # what other data sets call it
    "image": ("image_path", "img", "path", "file", "file_name", "filename", "scan"),
    "question": ("prompt", "query"), "answer": ("label", "response", "ground_truth"), "report": ("findings", "text"),
}  # fmt: skip


@dataclass(frozen=True)
class Raw:
    """A row as it lies in its source: a mapping, or a line of JSON not yet read. where: file and line, for messages."""

    where: str
    values: Any
    folder: Path
    side: str = ""


@dataclass(frozen=True)
class Row:
    """One question about one examination.

    images: paths, or pictures that a data set holds itself; several are one stack. patient: "" where unknown.
    side: "train", "validate", "test", or "" where the source does not say. context: what is known before looking
    (indication, history, an earlier report). boxes: (label, x y w h in pixels). extra: the row as it was.
    """

    where: str
    images: tuple[Any, ...]
    question: str
    answer: str
    patient: str
    side: str
    context: str
    mask: Path | None
    boxes: list[tuple[str, list[float]]]
    extra: dict[str, Any]

    @property
    def key(self) -> str:
        """Rows of one key are about the same images."""
        return "\n".join(str(i) if isinstance(i, Path) else _fingerprint(i) for i in self.images)


def raw_rows(source: str | Path) -> Iterator[Raw]:
    """Every row of `source`, in order; what is streamed or memory-mapped stays where it is until asked for.

    Raises:
        DataError: nothing there that could be a manifest, or no rows in it.
    """
    empty = True
    for raw in _open(source):
        empty = False
        yield raw
    if empty:
        raise DataError(f"{source}: no rows found; {_EXPECTED}")


def parse(raw: Raw) -> Row:
    """One row understood.

    Keys, in any case: `image` or `images` (paths relative to the source, or pictures), then `question` and `answer`,
    or `report`; optional `patient`, `split`, `indication`, `history`, `prior` (text, or the path of an earlier scan,
    which then ends the stack), `mask` (path), `box` ({"label", "xywh"}, or a list of them).

    Raises:
        DataError: a key is missing, empty or of the wrong kind; the message names the place.
    """
    try:
        values = _named(raw.values)
        images = _images(values, raw.folder)
        question, answer = _asked(values)
        boxes = _boxes(values.get("box"))
    except (ValueError, TypeError) as error:
        raise DataError(f"{raw.where}: {error}") from error
    context = [f"{k}: {_line(values[k])}" for k in ("indication", "history") if _text(values.get(k))]
    if prior := _text(values.get("prior")):
        path = _path(raw.folder, prior)
        if len(prior) < 250 and path.exists():
            images = (*images, path)
        else:
            context.append(f"prior: {_line(prior)}")
    side = raw.side or _text(values.get("split")).lower()
    if side and side not in _SIDES:
        raise DataError(f"{raw.where}: found split {side!r}; expected train, validate or test")
    mask = _text(values.get("mask")) if isinstance(values.get("mask"), str) else ""
    return Row(
        raw.where, images, question, answer, next((p for k in _PATIENT if (p := _text(values.get(k)))), ""),
        _SIDES.get(side, ""), "; ".join(context), _path(raw.folder, mask) if mask else None, boxes, values,
    )  # fmt: skip


def read_scans(row: Row) -> list[Scan]:
    """The scans of a row. Raises ScanError."""
    return [Scan.read(i) if isinstance(i, Path) else Scan.from_array(_pixels(i)) for i in row.images]


def prepare_stack(scans: Sequence[Scan], prepare: Prepare) -> Prepared:
    """One examination for the encoder: several pictures or volumes are laid one behind the other as slices.

    Their place in space is that of the first. Beyond `max_slices`, neighbours are averaged.
    """
    import torch
    from torch.nn import functional as F

    first, *others = (prepare(scan) for scan in scans)
    if not others:
        return first
    x = torch.cat([first.x, *(other.x for other in others)], 1)
    depth = min(x.shape[1], prepare.max_slices)
    return replace(first, x=F.adaptive_avg_pool3d(x, (depth, None, None)))


def _open(source: str | Path) -> Iterable[Raw]:
    if str(source).startswith("hf:"):
        return _hub(str(source)[3:])
    path = Path(source)
    if path.is_file() and path.suffix.lower() in (".csv", ".tsv"):
        return _table(path)
    if path.is_file():
        return _lines(path)
    if not path.is_dir():
        raise DataError(f"{source}: nothing is there; {_EXPECTED}")
    if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
        return _saved(path)
    for name in ("manifest.jsonl", "manifest.csv", "manifest.tsv"):
        if (path / name).exists():
            return _open(path / name)
    files = [(path / f"{name}.jsonl", side) for name, side in _SIDES.items() if (path / f"{name}.jsonl").exists()]
    if files:
        return (raw for file, side in files for raw in _lines(file, side))
    return _pairs(path)


def _lines(path: Path, side: str = "") -> Iterator[Raw]:
    with _opened(path) as file:
        if path.suffix.lower() == ".json":
            for number, values in enumerate(_list(path, file.read()), 1):
                yield Raw(f"{path}, item {number}", values, path.parent, side)
            return
        for number, line in enumerate(file, 1):
            if line.strip():
                yield Raw(f"{path}, line {number}", line, path.parent, side)


def _list(path: Path, text: str) -> list[Any]:
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    if not isinstance(rows, list):
        raise DataError(f"{path} holds one JSON {type(rows).__name__}; expected a list of rows, or a .jsonl file")
    return rows


def _table(path: Path) -> Iterator[Raw]:
    with _opened(path) as file:
        header = file.readline()
        file.seek(0)
        comma = max(",;\t", key=header.count)  # Excel writes semicolons where the comma is a decimal point
        reader = csv.DictReader(file, delimiter=comma)
        for values in reader:
            cells = {k: _cell(v) for k, v in values.items() if k and isinstance(v, str)}
            yield Raw(f"{path}, line {reader.line_num}", cells, path.parent)


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """A text file in UTF-8, or in UTF-16 with its mark. Raises DataError for any other, and for what is no text."""
    with path.open("rb") as file:
        mark = file.read(4096)
    wide = mark[:2] in (b"\xff\xfe", b"\xfe\xff") and path.suffix.lower() in (".csv", ".tsv", ".txt")
    if b"\0" in mark and not wide:
        raise DataError(f"{path} is not text; {_EXPECTED}")
    try:
        with path.open(encoding="utf-16" if wide else "utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not in UTF-8 (byte 0x{error.object[error.start]:02x}); save it so, in Excel as 'CSV UTF-8'"
        ) from error


def _cell(text: str) -> Any:
    """A cell that holds a JSON list or object is one; any other is text."""
    if text.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def _pairs(folder: Path) -> Iterator[Raw]:
    texts = sorted(folder.rglob("*.txt"))
    if not texts:
        tables = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jsonl", ".csv", ".tsv", ".json"))
        if tables:
            raise DataError(f"{folder} has no manifest; did you mean {' or '.join(map(str, tables[:3]))}?")
        raise DataError(f"{folder} is a folder without a manifest; {_EXPECTED}")
    for text in texts:
        stem, where = text.name[:-4], str(text)
        scans = [p for p in sorted(text.parent.iterdir()) if p != text and (p.name == stem or p.stem == stem
                 or p.name in (f"{stem}.nii.gz", f"{stem}.tar.gz"))]  # fmt: skip
        with _opened(text) as file:
            lines = file.read().strip()
        image = [p.name for p in scans]
        if not lines.startswith("Q:"):
            yield Raw(where, {"image": image, "report": lines}, text.parent)
            continue
        for number, pair in enumerate(lines.removeprefix("Q:").split("\nQ:"), 1):
            question, _, answer = pair.partition("\nA:")
            yield Raw(f"{where}, question {number}", {"image": image, "question": question, "answer": answer},
                      text.parent)  # fmt: skip


def _saved(folder: Path) -> Iterator[Raw]:
    from datasets import DatasetDict, load_from_disk

    data = load_from_disk(str(folder))
    splits = data.items() if isinstance(data, DatasetDict) else [("", data)]
    for name, rows in splits:
        for number, values in enumerate(rows, 1):  # Arrow stays on disk
            yield Raw(f"{folder}, line {number}", values, folder.parent, _SIDES.get(name, name))


def _hub(name: str) -> Iterator[Raw]:
    """NAME or NAME@SPLIT, streamed: only what is read is fetched. Without a split, train and validation."""
    from datasets import load_dataset

    name, _, split = name.partition("@")
    try:
        data = load_dataset(name, streaming=True)
    except (FileNotFoundError, ValueError, ConnectionError, OSError) as error:
        raise DataError(f"hf:{name} does not open: {str(error).splitlines()[0]}; {_EXPECTED}") from error
    wanted = [split] if split else [s for s in data if _SIDES.get(s, s) != "test"]
    if missing := [s for s in wanted if s not in data]:
        raise DataError(f"hf:{name} has no split {missing[0]!r}; found {', '.join(data)}")
    for part in wanted:
        side = "" if len(wanted) == 1 else _SIDES.get(part, "")
        for number, values in enumerate(data[part], 1):
            yield Raw(f"hf:{name}@{part}, row {number}", values, Path(name) if Path(name).is_dir() else Path(), side)


def _named(values: Any) -> dict[str, Any]:
    """The row with its keys in small letters; an empty cell, and what pandas writes for one, is not there."""
    if isinstance(values, str):
        try:
            values = json.loads(values)
        except ValueError as error:
            raise ValueError(f"this is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise TypeError(f"found a {type(values).__name__}; expected an object with image, question and answer")
    return {str(k).strip().lower(): v for k, v in values.items() if not (isinstance(v, float | str) and not _text(v))}


def _lacking(key: str, values: dict[str, Any]) -> ValueError:
    """No such key, or nothing in it: what there is, and which of it was probably meant."""
    found = ", ".join(sorted(values)) or "nothing"
    meant = next((name for name in _MEANT.get(key, ()) if name in values), None)
    return ValueError(
        f"no {key}, or it is empty; found {found}" + (f". Should {meant} be called {key}?" if meant else "")
    )


def _path(folder: Path, text: str) -> Path:
    if re.match(r"[A-Za-z]:\\", text) and os.name != "nt":
        raise ValueError(f"{text} is a path of Windows; write it relative to the manifest, img/case1.png")
    path = folder / text
    return folder / text.replace("\\", "/") if "\\" in text and not path.exists() else path


def _images(values: dict[str, Any], folder: Path) -> tuple[Any, ...]:
    given = values.get("images") or values.get("image")
    listed = list(given) if isinstance(given, list | tuple) else [given]
    if not listed or any(item is None or item == "" for item in listed):
        raise _lacking("image", values)
    for item in listed:
        if not isinstance(item, str) and not hasattr(item, "convert"):  # a path, or a picture of Pillow
            raise TypeError(f"an image is a {type(item).__name__}; expected a path or a picture")
    return tuple(_path(folder, item) if isinstance(item, str) else item for item in listed)


def _asked(values: dict[str, Any]) -> tuple[str, str]:
    if "question" not in values and _text(values.get("report")):
        return REQUEST, _line(values["report"])
    for key in ("question", "answer"):
        if not _text(values.get(key)):
            raise _lacking(key, values)
    return _line(values["question"]), _line(values["answer"])


def _boxes(given: Any) -> list[tuple[str, list[float]]]:
    items = given if isinstance(given, list) else [given] if given else []
    boxes = []
    for box in items:
        if not isinstance(box, dict) or not {"label", "xywh"} <= box.keys():
            raise ValueError(
                f'box {given}: expected {{"label": "liver", "xywh": [left, top, width, height]}} in pixels'
            )
        boxes.append((str(box["label"]), [float(v) for v in box["xywh"]]))
    if wrong := [b for b in boxes if len(b[1]) != 4 or min(b[1][2:]) <= 0]:
        raise ValueError(f"box {wrong[0]}: xywh is left, top, width and height in pixels, the last two above 0")
    return boxes


def _text(value: Any) -> str:
    """ "" for nothing: None, and the NaN that pandas makes of an empty cell, as a number or as a word."""
    text = "" if value is None else str(value).strip()
    return "" if text.lower() in ("nan", "null", "<na>") else text


def _line(value: Any) -> str:
    return " ".join(_text(value).split())


def _pixels(picture: Any) -> np.ndarray:
    grey = picture.mode in ("1", "L", "LA", "I", "F") or picture.mode.startswith("I;")
    if grey:
        return np.asarray(picture if picture.mode != "LA" else picture.convert("L")).squeeze()
    return np.asarray(picture.convert("RGB"))


def _fingerprint(picture: Any) -> str:
    return hashlib.sha256(f"{picture.size} {picture.mode}".encode() + picture.tobytes()).hexdigest()
