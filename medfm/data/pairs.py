"""Pairs of scans to register: a file of them, or any two of a data set; with labels and points where there are."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medfm.config import check_keys
from medfm.data.patients import split_patients
from medfm.data.sets import check_exists, stem
from medfm.data.volumes import Pair, VolumeCase, find_pairs, read_volumes
from medfm.errors import DataError
from medfm.grid import GridPrepare
from medfm.scan import Scan

__all__ = ["RegistrationPair", "Side", "both_sides", "draw_pairs", "read_pairs", "read_points", "read_table"]

_KEYS = ("moving", "fixed", "moving_labels", "fixed_labels", "points", "patient")
_SCANS = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".dcm", ".png", ".jpg")


@dataclass(frozen=True)
class RegistrationPair:
    """Two scans by path, label maps of both, points of both (see `read_points`); `patient` is resampled as one."""

    name: str
    moving: Path
    fixed: Path
    moving_labels: Path | None = None
    fixed_labels: Path | None = None
    points: Path | None = None
    patient: str = ""


def read_pairs(path: Path) -> list[RegistrationPair]:
    """A file of JSON lines {"moving", "fixed", "moving_labels"?, "fixed_labels"?, "points"?, "patient"?}.

    Paths are relative to the file. patient: whose pairs are not independent; default: the fixed scan.

    Raises:
        DataError: no such file, no pair, an unknown key, a file that is missing, or labels of one side only.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected JSON lines with moving and fixed")
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            unknown, missing = sorted(set(row) - set(_KEYS)), sorted({"moving", "fixed"} - set(row))
        except (ValueError, TypeError) as error:
            raise DataError(f"{path.name}, line {number}: not a JSON object ({error})") from error
        if unknown or missing or ("moving_labels" in row) != ("fixed_labels" in row):
            raise DataError(
                f"{path.name}, line {number}: found keys {sorted(row)}; expected moving and fixed, labels of both or "
                f"of none, and of {list(_KEYS)} only"
            )
        files = {key: path.parent / row[key] for key in _KEYS[:5] if key in row}
        absent = [str(row[key]) for key, file in files.items() if not file.exists()]
        if absent:
            raise DataError(f"{path.name}, line {number}: no such file beside it: {', '.join(absent)}")
        name = f"{stem(files['moving'])} to {stem(files['fixed'])}"
        pairs.append(RegistrationPair(name, **files, patient=str(row.get("patient", row["fixed"]))))
    if not pairs:
        raise DataError(f"{path}: found no pairs; expected JSON lines with moving and fixed")
    return pairs


def read_points(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Corresponding points (N, 3) of the fixed and the moving scan in RAS mm: six columns of a CSV, fixed first."""
    numbers = read_table(path, columns=6)
    return numbers[:, :3], numbers[:, 3:]


def read_table(path: Path, *, columns: int) -> NDArray[np.float64]:
    """The numbers (N, columns) of a CSV; a first line of names is skipped. Raises DataError for anything else."""
    check_exists(path)
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row]
    if rows and not _is_number(rows[0][0]):
        rows = rows[1:]
    if not rows or any(len(row) != columns or not all(map(_is_number, row)) for row in rows):
        raise DataError(f"{path.name}: expected {columns} finite numbers a line, x, y, z in mm, with commas between")
    return np.array(rows, dtype=np.float64)


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def draw_pairs(count: int, number: int, *, seed: int) -> list[tuple[int, int]]:
    """`number` different pairs (moving, fixed) of `count` cases, each case about equally often fixed."""
    random = np.random.default_rng(seed)
    chosen: list[tuple[int, int]] = []
    while len(chosen) < min(number, count * (count - 1)):
        for fixed in random.permutation(count).tolist():
            left = [m for m in range(count) if m != fixed and (m, fixed) not in chosen]
            if left and len(chosen) < number:
                chosen.append((int(random.choice(left)), fixed))
    return chosen


@dataclass(frozen=True)
class Side:
    """Cases on a model's grid, and the pairs (moving, fixed) to make of them; none: any two."""

    cases: list[VolumeCase]
    pairs: list[tuple[int, int]]


def both_sides(data: dict[str, Any], prepare: GridPrepare, *, seed: int) -> tuple[Side, Side, list[str]]:
    """Cases to train on, held-out ones, and the names of the labels, of a recipe's `data`.

    `train`: a labelled data set (see `find_pairs`) or a folder of scans, any two of which make a pair, or a file of
    pairs (see `read_pairs`). `hold`: a share of the patients, or a list of them; of a file of pairs, a share of its
    fixed scans. `split`: seed of that share. `labels`: value -> name. `limit`: of scans.
    """
    check_keys("data", data, {"train", "hold", "labels", "split", "limit"})
    path, split, hold = Path(data["train"]), data.get("split", 0), data.get("hold", 0.15)
    if path.suffix == ".jsonl":
        listed = read_pairs(path)
        named = {int(v): str(n) for v, n in data.get("labels", {}).items()}
        items = [Pair(p.name, p.fixed, p.fixed_labels or p.fixed, p.patient) for p in listed]
        train, held = split_patients(items, hold=hold, seed=split)
        sides = [_side_of([p for p in listed if p.name in {i.name for i in s}], named, prepare) for s in (train, held)]
        return sides[0], sides[1], list(named.values())
    try:
        found = find_pairs(path, labels=data.get("labels"))
        scans, named = found.pairs, found.labels
    except DataError:
        files = sorted(f for f in path.glob("*") if f.name.lower().endswith(_SCANS))
        if not files:
            raise
        scans, named = [Pair(stem(f), f, f, stem(f)) for f in files], {}
    train, held = split_patients(scans, hold=hold, seed=split)
    limit = data.get("limit")
    sides = [Side(_cases(part[:limit], named, prepare), []) for part in (train, held)]
    if min(len(s.cases) for s in sides) < 2:
        raise DataError(f"{len(sides[0].cases)} scans to train on and {len(sides[1].cases)} held out; both need two")
    return sides[0], sides[1], list(named.values())


def _side_of(pairs: Sequence[RegistrationPair], named: dict[int, str], prepare: GridPrepare) -> Side:
    files: dict[Path, Pair] = {}
    for pair in pairs:
        for scan, labels in ((pair.moving, pair.moving_labels), (pair.fixed, pair.fixed_labels)):
            files.setdefault(scan, Pair(stem(scan), scan, labels or scan, pair.patient))
    order = list(files)
    cases = _cases(list(files.values()), named, prepare)
    return Side(cases, [(order.index(p.moving), order.index(p.fixed)) for p in pairs])


def _cases(scans: list[Pair], named: dict[int, str], prepare: GridPrepare) -> list[VolumeCase]:
    if named:
        return read_volumes(scans, named, prepare)
    cases = []
    for item in scans:
        grid = prepare(Scan.read(item.image))
        empty = torch.zeros(grid.shape, dtype=torch.uint8)
        cases.append(VolumeCase(item.name, item.patient, grid.numbers().half(), empty, torch.tensor(grid.spacing)))
    return cases
