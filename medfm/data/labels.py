"""Scans with a label each: found in the layouts data sets come in, split by patient into three, kept in memory."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
from medfm.grid import GridPrepare
from medfm.scan import Scan

__all__ = [
    "LabelCase",
    "LabelledScan",
    "LabelledScans",
    "find_labels",
    "label_counts",
    "merged",
    "read_cases",
    "three_sides",
]

_PICTURES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm", ".nii", ".gz", ".nrrd", ".mha"}
_EXPECTED = (
    "expected metadata.csv beside images/ (HAM10000), an .npz of MedMNIST, one folder a class, or a .jsonl of image, "
    "label and, where one has several, patient"
)


@dataclass(frozen=True)
class LabelledScan:
    """One scan, a path or pixels, and its label. Scans of one `patient` (or lesion) are never split. side: "train" or
    "validate" where the data set says so."""

    name: str
    image: Path | NDArray[np.uint8]
    patient: str
    label: str
    side: str = ""

    def read(self) -> Scan:
        """The scan."""
        return Scan.read(self.image) if isinstance(self.image, Path) else Scan.from_array(self.image)


@dataclass(frozen=True)
class LabelledScans:
    """A data set on disk: its scans, and the names of the classes in the order of their numbers."""

    name: str
    scans: list[LabelledScan]
    labels: list[str]


@dataclass
class LabelCase:
    """A case on a model's grid: x (C, D, H, W) float16, label a number, spacing (3,) mm."""

    name: str
    patient: str
    x: Tensor
    label: int
    spacing: Tensor


def find_labels(path: str | Path) -> LabelledScans:
    """What lies at `path`, by its layout.

    Known are HAM10000 (`metadata.csv` with lesion_id, image_id and dx beside `images/`; a lesion counts as a patient),
    MedMNIST's .npz (train and validation part; the test part is left alone), one folder a class, and JSON lines.

    Raises:
        DataError: none of these, or fewer than two classes.
    """
    path = Path(path)
    check_exists(path)
    if path.suffix == ".npz":
        scans = _medmnist(path)
    elif path.suffix == ".jsonl":
        scans = _lines(path)
    elif (path / "metadata.csv").is_file():
        scans = _ham(path)
    elif path.is_dir():
        scans = _folders(path)
    else:
        raise DataError(f"{path} is no data set with labels: {_EXPECTED}")
    labels = sorted({scan.label for scan in scans})
    if len(labels) < 2:
        raise DataError(f"{path}: {len(scans)} scans of the classes {labels}, fewer than two; {_EXPECTED}")
    return LabelledScans(path.resolve().name, scans, labels)


def three_sides(
    data: dict[str, Any], *, seed: int
) -> tuple[list[LabelledScan], list[LabelledScan], list[LabelledScan], list[str]]:
    """Scans to train on, to choose by, and held out, and the names of the classes, of a recipe's `data`.

    `train`: a data set (see `find_labels`). Held out is its validation part where it has one, else `validate`, another
    data set, or `hold`: a share of the patients or a list of them, with `split`, the seed of that share. `tune`: share
    of the other patients that weights never see; temperature and operating points are fitted on it. `limit`: of the
    scans of each side. `merge`: see `merged`.
    """
    check_keys("data", data, {"train", "validate", "hold", "split", "tune", "limit", "merge"})
    found = merged(find_labels(data["train"]), data.get("merge", {}))
    split = data.get("split", seed)
    train, held = found.scans, [s for s in found.scans if s.side == "validate"]
    if data.get("validate"):
        held = merged(find_labels(data["validate"]), data.get("merge", {})).scans
    elif held:
        train = [s for s in found.scans if s.side != "validate"]
    else:
        train, held = _apart(found.scans, data.get("hold"), seed=split)
    train, tune = _apart(train, data.get("tune", 0.1), seed=split + 1)
    if limit := data.get("limit"):
        train, tune, held = train[:limit], tune[:limit], held[:limit]
    if not train or not tune or not held:
        raise DataError(f"{len(train)} scans to train on, {len(tune)} to choose by, {len(held)} held out; need some")
    return train, tune, held, found.labels


def merged(found: LabelledScans, groups: Mapping[str, Sequence[str]]) -> LabelledScans:
    """Labels put together under other names, name -> labels, as the grades of a retina are into "referable"; those that
    no group names stay. Raises DataError for a label that is not there."""
    new = {str(old): name for name, olds in groups.items() for old in olds}
    if unknown := set(new) - set(found.labels):
        raise DataError(f"data.merge names {sorted(unknown)}; {found.name} has {found.labels}")
    scans = [replace(s, label=new.get(s.label, s.label)) for s in found.scans]
    return LabelledScans(found.name, scans, sorted({s.label for s in scans}))


def read_cases(scans: Iterable[LabelledScan], labels: Sequence[str], prepare: GridPrepare) -> list[LabelCase]:
    """Cases on the grid of `prepare`, in half precision, to be held in memory."""
    from rich.progress import track

    cases = []
    for one in track(list(scans), description="reading scans", transient=True):
        grid = prepare(one.read())
        number, spacing = labels.index(one.label), torch.tensor(grid.spacing)
        cases.append(LabelCase(one.name, one.patient, grid.numbers().half(), number, spacing))
    return cases


def _apart(
    scans: Sequence[LabelledScan], share: float | Sequence[str] | None, *, seed: int
) -> tuple[list[LabelledScan], list[LabelledScan]]:
    """By patient; of each class the same share, as far as whole patients allow."""
    if not isinstance(share, float | int):
        return split_patients(scans, hold=share, seed=seed)
    classes = {s.patient: s.label for s in scans}
    random, held = np.random.default_rng(seed), set()
    for label in sorted(set(classes.values())):
        own = sorted(p for p, kind in classes.items() if kind == label)
        held |= {own[i] for i in random.permutation(len(own))[: round(share * len(own))]}
    return [s for s in scans if s.patient not in held], [s for s in scans if s.patient in held]


def _ham(path: Path) -> list[LabelledScan]:
    with (path / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        LabelledScan(r["image_id"], path / "images" / f"{r['image_id']}.jpg", r["lesion_id"], r["dx"]) for r in rows
    ]


def _medmnist(path: Path) -> list[LabelledScan]:
    content = np.load(path, allow_pickle=False)
    scans = []
    for part, side in (("train", "train"), ("val", "validate")):
        for number, (pixels, label) in enumerate(
            zip(content[f"{part}_images"], content[f"{part}_labels"], strict=True)
        ):
            name = f"{part}{number}"
            scans.append(LabelledScan(name, pixels, name, str(int(label[0])), side))
    return scans


def _folders(path: Path) -> list[LabelledScan]:
    files = [p for p in sorted(path.glob("*/*")) if p.suffix.lower() in _PICTURES]
    return [LabelledScan(f"{p.parent.name}/{p.name}", p, f"{p.parent.name}/{p.name}", p.parent.name) for p in files]


def _lines(path: Path) -> list[LabelledScan]:
    scans = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
            name = row["image"]
            scans.append(LabelledScan(name, path.parent / name, str(row.get("patient", name)), str(row["label"])))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path.name}, line {number}: {_EXPECTED} ({error!r})") from error
    return scans


def label_counts(cases: Iterable[LabelCase], classes: int) -> list[int]:
    """How many cases of each class."""
    counts = Counter(case.label for case in cases)
    return [counts[k] for k in range(classes)]
