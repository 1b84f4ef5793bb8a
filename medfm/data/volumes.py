"""Scans with their label maps: found in the layouts data sets come in, split by patient, kept in memory on one grid."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medfm.config import check_keys
from medfm.data.patients import split_patients
from medfm.data.sets import check_exists
from medfm.errors import DataError
from medfm.grid import GridPrepare, resample_labels
from medfm.scan import Scan

__all__ = [
    "LabelledScans", "Pair", "VolumeCase", "both_volumes", "find_pairs", "numbered", "read_labels", "read_volumes",
    "unlabelled_volumes",
]  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """One scan and its label map, by path. Pairs of one `patient` are never split."""

    name: str
    image: Path
    label: Path
    patient: str


@dataclass(frozen=True)
class LabelledScans:
    """A data set on disk: its pairs, and the name of each label value above 0.

    channel: what its pictures show ("CT", "MRI"), where its `dataset.json` says so; it decides how nnU-Net normalises.
    """

    name: str
    pairs: list[Pair]
    labels: dict[int, str]
    channel: str = ""


@dataclass
class VolumeCase:
    """A case on a model's grid: x (C, D, H, W) float16, labels (D, H, W) uint8 numbered 1..K, spacing (3,) mm."""

    name: str
    patient: str
    x: Tensor
    labels: Tensor
    spacing: Tensor


def find_pairs(path: str | Path, *, labels: Mapping[int, str] | None = None, by_number: bool = False) -> LabelledScans:
    """What lies in a folder, by its layout.

    Known are Decathlon's `dataset.json` (a list "training" of image and label), nnU-Net's raw folders (imagesTr with
    `_0000`, labelsTr), `Images/` beside `Labels/` with the same names inside (Sunnybrook; the patient is the name up to
    "-IM-"), CHASE_DB1 (`Image_01L.jpg`, first observer), SLAKE (`images/*/image.jpg` beside `mask.png`), and a file of
    JSON lines with "image", "label" and, where one has several, "patient"; or of questions about images with masks.

    labels: value -> name of the labels to keep; default: those that the data set names. Others become background.
    by_number: labels without a name are kept too, each named by its number.

    Raises:
        DataError: none of these, no pair, or no names for the labels.
    """
    path = Path(path)
    if path.name == "dataset.json":
        path = path.parent
    check_exists(path)
    for is_layout, finder in _LAYOUTS:
        if is_layout(path):
            pairs, named = finder(path)
            break
    else:
        raise DataError(
            f"{path} is no labelled data set: expected dataset.json, Images/ and Labels/, Image_01L.jpg, "
            "images/*/mask.png, or a .jsonl file of image and label"
        )
    if not pairs:
        raise DataError(f"{path}: not one scan with a label map was found")
    if by_number and not labels:
        labels = named or {value: str(value) for value in range(1, 256)}
    kept = {int(k): v for k, v in (labels or named).items() if int(k) > 0}
    if not kept:
        raise DataError(f"{path} does not name its labels; give data.labels, say {{1: liver}}")
    return LabelledScans(path.resolve().name, sorted(pairs, key=lambda p: p.name), kept, _channel(path))


def read_labels(pair: Pair, labels: Mapping[int, str]) -> tuple[Scan, NDArray[np.uint8]]:
    """The scan of a pair and its label map (D, H, W), numbered 1..K in the order of `labels`.

    Raises DataError where the two are not on one grid.
    """
    scan, drawn = Scan.read(pair.image), Scan.read(pair.label)
    if drawn.data.shape[1:] != scan.data.shape[1:] or not np.allclose(drawn.affine, scan.affine, atol=0.1):
        raise DataError(
            f"{pair.name}: the label map has shape {drawn.data.shape[1:]}, the scan {scan.data.shape[1:]}, or they lie "
            "at different places; resample the labels onto the scan"
        )
    return scan, numbered(drawn, labels)


def numbered(drawn: Scan, labels: Iterable[int]) -> NDArray[np.uint8]:
    """A label map (D, H, W) in which the values `labels` are numbered 1..K in their order, and all others are 0."""
    values = np.round(drawn.data[0].astype(np.float32)).astype(np.int64)
    table = np.zeros(max([int(values.max()), *labels]) + 1, dtype=np.uint8)
    for number, value in enumerate(labels, 1):
        table[value] = number
    return table[np.clip(values, 0, None)]


def read_volumes(pairs: Iterable[Pair], labels: Mapping[int, str], prepare: GridPrepare) -> list[VolumeCase]:
    """Cases on the grid of `prepare`, in half precision, to be held in memory."""
    from rich.progress import track

    cases = []
    for pair in track(list(pairs), description="reading scans", transient=True):
        scan, drawn = read_labels(pair, labels)
        grid = prepare(scan)
        seen = np.ascontiguousarray(prepare.seen(replace(scan, data=drawn[None]))[0][0])
        small = torch.from_numpy(resample_labels(seen, grid.shape).copy())
        cases.append(VolumeCase(pair.name, pair.patient, grid.numbers().half(), small, torch.tensor(grid.spacing)))
    return cases


def both_volumes(
    data: dict[str, Any], prepare: GridPrepare, *, seed: int
) -> tuple[list[VolumeCase], list[VolumeCase], list[str]]:
    """Cases to train on, held-out ones, and the names of the classes, of a recipe's `data`.

    `train`: a data set (see `find_pairs`). `labels`: value -> name. `validate`: another data set, or `hold`: a share
    of the patients or a list of them. `split`: seed of that share, the same whatever the training's seed. `share`: use
    this share of the training patients only. `unlabelled`: see `unlabelled_volumes`.
    """
    found, train, _, held = _sides(data, seed)
    names = list(found.labels.values())
    return read_volumes(train, found.labels, prepare), read_volumes(held, found.labels, prepare), names


def unlabelled_volumes(data: dict[str, Any], prepare: GridPrepare, *, seed: int) -> list[VolumeCase]:
    """Scans of a recipe's `data` to learn from without labels, every voxel numbered 0: `unlabelled`, a folder of scans,
    and those of the training patients that `share` leaves out, whose label maps are not opened.

    Raises DataError: there is no such scan.
    """
    from rich.progress import track

    rest = [(pair.name, pair.patient, pair.image) for pair in _sides(data, seed)[2]]
    if folder := data.get("unlabelled"):
        check_exists(Path(folder))
        rest += [(p.name, p.name, p) for p in sorted(Path(folder).iterdir()) if not p.name.startswith(".")]
    if not rest:
        raise DataError("no scan without labels: give data.unlabelled, a folder of scans, or data.share under 1")
    cases = []
    for name, patient, image in track(rest, description="reading scans", transient=True):
        grid = prepare(Scan.read(image))
        blank = torch.zeros(grid.shape, dtype=torch.uint8)
        cases.append(VolumeCase(name, patient, grid.numbers().half(), blank, torch.tensor(grid.spacing)))
    return cases


def _sides(data: dict[str, Any], seed: int) -> tuple[LabelledScans, list[Pair], list[Pair], list[Pair]]:
    """The data set, and its pairs to train on, those that `share` leaves out, and those held out."""
    check_keys("data", data, {"train", "validate", "hold", "labels", "split", "share", "limit", "unlabelled"})
    found = find_pairs(data["train"], labels=data.get("labels"))
    if "validate" in data:
        train, held = found.pairs, find_pairs(data["validate"], labels=data.get("labels")).pairs
    else:
        train, held = split_patients(found.pairs, hold=data.get("hold"), seed=data.get("split", 0))
    rest: list[Pair] = []
    if "share" in data:
        rest, train = split_patients(train, hold=data["share"], seed=seed)
    if limit := data.get("limit"):
        train, rest, held = train[:limit], rest[:limit], held[:limit]
    if not train or not held:
        raise DataError(f"{len(train)} scans to train on and {len(held)} held out; both must have some")
    return found, train, rest, held


Found = tuple[list[Pair], dict[int, str]]


def _decathlon(path: Path) -> Found:
    about = json.loads((path / "dataset.json").read_text())
    pairs = []
    for row in about["training"]:
        image = path / row["image"]
        name = re.sub(r"\.(nii(\.gz)?|nrrd|mha)$", "", image.name)
        pairs.append(Pair(name, image, path / row["label"], name))
    return pairs, {int(value): str(name) for value, name in about["labels"].items()}


def _nnunet(path: Path) -> Found:
    about = json.loads((path / "dataset.json").read_text())
    ending = about.get("file_ending", ".nii.gz")
    if len(about.get("channel_names", about.get("modality", {"0": ""}))) > 1:
        raise DataError(f"{path.name} has several channels; one is read. Split them into data sets of one")
    pairs = []
    for label in sorted((path / "labelsTr").glob(f"*{ending}")):
        name = label.name.removesuffix(ending)
        pairs.append(Pair(name, path / "imagesTr" / f"{name}_0000{ending}", label, name))
    plain = {int(value): str(name) for name, value in about["labels"].items() if isinstance(value, int)}
    return pairs, plain


def _same_names(path: Path) -> Found:
    pairs = []
    for label in sorted(p for p in (path / "Labels").rglob("*") if p.is_file()):
        image = path / "Images" / label.relative_to(path / "Labels")
        if image.exists():
            pairs.append(Pair(label.name.split(".")[0], image, label, label.name.split("-IM-")[0]))
    return pairs, {}


def _chase(path: Path) -> Found:
    pairs = [
        Pair(image.stem, image, image.with_name(f"{image.stem}_1stHO.png"), image.stem[6:8])
        for image in sorted(path.glob("Image_*.jpg"))
    ]
    return pairs, {1: "vessel"}


def _slake(path: Path) -> Found:
    folders = [mask.parent for mask in sorted(path.glob("images/*/mask.png"))]
    return [Pair(f.name, f / "image.jpg", f / "mask.png", f.name) for f in folders], {}


def _lines(path: Path) -> Found:
    pairs, seen = [], set()
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
            image = path.parent / row["image"]
            if "question" in row and "label" not in row:  # SLAKE: many questions of an image, a mask beside some
                label = image.with_name("mask.png")
                if row["image"] in seen or not label.exists():
                    continue
                seen.add(row["image"])
            else:
                label = path.parent / row["label"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path.name}, line {number}: expected an object with image and label ({error})") from error
        pairs.append(Pair(row["image"], image, label, str(row.get("patient", row["image"]))))
    return pairs, {}


def _channel(path: Path) -> str:
    file = path / "dataset.json"
    about = json.loads(file.read_text()) if file.is_file() else {}
    named = about.get("channel_names", about.get("modality", {}))
    return str(named.get("0", "")) if isinstance(named, dict) else ""


def _training_list(path: Path) -> bool:
    file = path / "dataset.json"
    return file.is_file() and "training" in json.loads(file.read_text())


_LAYOUTS: tuple[tuple[Callable[[Path], bool], Callable[[Path], Found]], ...] = (
    (_training_list, _decathlon),
    (lambda p: (p / "dataset.json").is_file() and (p / "labelsTr").is_dir(), _nnunet),
    (lambda p: (p / "Images").is_dir() and (p / "Labels").is_dir(), _same_names),
    (lambda p: any(p.glob("Image_*L.jpg")), _chase),
    (lambda p: any(p.glob("images/*/mask.png")), _slake),
    (lambda p: p.suffix == ".jsonl" and p.is_file(), _lines),
)
