"""A user's own cases as rows: JSON lines, CSV, a folder of `scan + .txt` pairs, or a Hugging Face data set."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medfm.errors import DataError
from medfm.prepare import Prepare, Prepared
from medfm.scan import Scan

__all__ = ["REQUEST", "Raw", "Row", "parse", "prepare_stack", "raw_rows", "read_scans"]

REQUEST = "Write the findings."  # what a row with a report and no question is asked
_SIDES = {"train": "train", "validate": "validate", "validation": "validate", "val": "validate", "test": "test"}
_EXPECTED = (
    "expected a .jsonl, .csv or .tsv file; a folder with manifest.jsonl, manifest.csv or train.jsonl (and "
    "validate.jsonl); one that `Dataset.save_to_disk` wrote; one of scans with a .txt of the same name beside each; "
    "or hf:NAME, a data set of the Hugging Face hub or a folder that `load_dataset` opens"
)


@dataclass(frozen=True)
class Raw:
    """A row as it lies in its source: a mapping, or a line of JSON not yet read. where: file and line, for messages."""

    where: str
    values: dict[str, Any] | str
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

    Keys: `image` or `images` (paths relative to the source, or pictures), then `question` and `answer`, or `report`;
    optional `patient`, `split`, `indication`, `history`, `prior` (text, or the path of an earlier scan, which then
    ends the stack), `mask` (path), `box` ({"label", "xywh"}, or a list of them).

    Raises:
        DataError: a key is missing, empty or of the wrong kind; the message names the place.
    """
    try:
        values = json.loads(raw.values) if isinstance(raw.values, str) else dict(raw.values)
        images = _images(values, raw.folder)
        question, answer = _asked(values)
        boxes = _boxes(values.get("box"))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        found = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(
            f"{raw.where}: expected an object with image, question and answer, or report ({found}); "
            "correct the row, or leave it out by naming its place in data.skip"
        ) from error
    context = [f"{k}: {_line(values[k])}" for k in ("indication", "history") if _text(values.get(k))]
    if prior := _text(values.get("prior")):
        path = raw.folder / prior
        if len(prior) < 250 and path.exists():
            images = (*images, path)
        else:
            context.append(f"prior: {_line(prior)}")
    side = raw.side or _text(values.get("split")).lower()
    if side and side not in _SIDES:
        raise DataError(f"{raw.where}: found split {side!r}; expected train, validate or test")
    mask = _text(values.get("mask")) if isinstance(values.get("mask"), str) else ""
    return Row(
        raw.where, images, question, answer, _text(values.get("patient")), _SIDES.get(side, ""), "; ".join(context),
        raw.folder / mask if mask else None, boxes, values,
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
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield Raw(f"{path}, line {number}", line, path.parent, side)


def _table(path: Path) -> Iterator[Raw]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        for values in reader:
            cells = {k: _cell(v) for k, v in values.items() if k and isinstance(v, str) and v.strip()}
            yield Raw(f"{path}, line {reader.line_num}", cells, path.parent)


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
        raise DataError(f"{folder} is a folder without a manifest; {_EXPECTED}")
    for text in texts:
        stem, where = text.name[:-4], str(text)
        scans = [p for p in sorted(text.parent.iterdir()) if p != text and (p.name == stem or p.stem == stem
                 or p.name in (f"{stem}.nii.gz", f"{stem}.tar.gz"))]  # fmt: skip
        lines = text.read_text(encoding="utf-8-sig").strip()
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


def _images(values: dict[str, Any], folder: Path) -> tuple[Any, ...]:
    given = values["images"] if values.get("images") else values["image"]
    listed = list(given) if isinstance(given, list | tuple) else [given]
    if not listed or any(item is None or item == "" for item in listed):
        raise ValueError("no image is named")
    for item in listed:
        if not isinstance(item, str) and not hasattr(item, "convert"):  # a path, or a picture of Pillow
            raise TypeError(f"an image is a {type(item).__name__}; expected a path or a picture")
    return tuple(folder / item if isinstance(item, str) else item for item in listed)


def _asked(values: dict[str, Any]) -> tuple[str, str]:
    if "question" not in values and _text(values.get("report")):
        return REQUEST, _line(values["report"])
    question, answer = _line(values["question"]), _line(values["answer"])
    if not question or not answer:
        raise ValueError(f"the {'answer' if question else 'question'} is empty")
    return question, answer


def _boxes(given: Any) -> list[tuple[str, list[float]]]:
    items = [given] if isinstance(given, dict) else given or []
    boxes = [(str(b["label"]), [float(v) for v in b["xywh"]]) for b in items]
    if wrong := [b for b in boxes if len(b[1]) != 4 or min(b[1][2:]) <= 0]:
        raise ValueError(f"box {wrong[0]}: xywh is left, top, width and height in pixels, the last two above 0")
    return boxes


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _line(value: Any) -> str:
    return " ".join(_text(value).split())


def _pixels(picture: Any) -> np.ndarray:
    grey = picture.mode in ("1", "L", "LA", "I", "F") or picture.mode.startswith("I;")
    if grey:
        return np.asarray(picture if picture.mode != "LA" else picture.convert("L")).squeeze()
    return np.asarray(picture.convert("RGB"))


def _fingerprint(picture: Any) -> str:
    return hashlib.sha256(f"{picture.size} {picture.mode}".encode() + picture.tobytes()).hexdigest()
