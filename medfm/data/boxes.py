"""Scans with boxes drawn on them: found in the layouts data sets come in, split by patient, kept in memory."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from torch import Tensor

from medfm.config import check_keys
from medfm.data.patients import split_patients
from medfm.data.sets import check_exists
from medfm.errors import DataError
from medfm.grid import GridPrepare
from medfm.image.boxes import grid_box
from medfm.scan import Box, Scan

__all__ = ["BoxCase", "BoxedScan", "BoxedScans", "both_boxes", "find_boxes", "read_boxes"]

_EXPECTED = (
    "expected a folder with Annotations/*.xml beside JPEGImages/ (VOC), a COCO .json, images/*/boxes.json or a .jsonl "
    "that names such images (SLAKE), or a .jsonl of image and boxes"
)


@dataclass(frozen=True)
class BoxedScan:
    """One scan, by path, and all that is drawn on it; none is as good as some. Those of one `patient` are never split.

    boxes: in the scan's own space, RAS mm or (column, row) pixels, see `medfm.scan.Box`.
    """

    name: str
    image: Path
    patient: str
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class BoxedScans:
    """A data set on disk: its scans, and how many boxes of each label there are."""

    name: str
    scans: list[BoxedScan]
    counts: dict[str, int]


@dataclass
class BoxCase:
    """A case on a model's grid: x (C, D, H, W) float16, boxes (N, 6) edges in voxels, labels (N,), spacing (3,) mm."""

    name: str
    patient: str
    x: Tensor
    boxes: Tensor
    labels: Tensor
    spacing: Tensor


def find_boxes(path: str | Path) -> BoxedScans:
    """What lies at `path`, by its layout.

    Known are VOC folders (`Annotations/*.xml`, `JPEGImages/`), COCO's JSON (images beside it or in `images/`), SLAKE
    (`images/*/boxes.json` of [x, y, width, height]; a .jsonl of questions names some of its images), and JSON lines of
    {"image", "boxes": [{"label", "low", "high"}], "patient"}, corners as in `medfm.scan.Box`. Where nobody names a
    patient, each image counts as one.

    Raises:
        DataError: none of these, or not one box.
    """
    path = Path(path)
    check_exists(path)
    if (path / "Annotations").is_dir():
        scans = _voc(path)
    elif path.suffix == ".json":
        scans = _coco(path)
    elif path.suffix == ".jsonl":
        scans = _lines(path)
    elif files := sorted(path.glob("images/*/boxes.json")):
        scans = [_slake(path, file.parent) for file in files]
    else:
        raise DataError(f"{path} is no data set with boxes: {_EXPECTED}")
    counts = Counter(box.label for scan in scans for box in scan.boxes)
    if not counts:
        raise DataError(f"{path}: {len(scans)} scans and not one box; {_EXPECTED}")
    return BoxedScans(path.resolve().name, scans, dict(counts.most_common()))


def read_boxes(scans: Iterable[BoxedScan], names: Sequence[str], prepare: GridPrepare) -> list[BoxCase]:
    """Cases on the grid of `prepare`, in half precision; boxes of other labels than `names` are left out.

    A box thinner than a voxel of the grid is widened to one.
    """
    from rich.progress import track

    cases = []
    for boxed in track(list(scans), description="reading scans", transient=True):
        scan = Scan.read(boxed.image)
        grid = prepare(scan)
        known = [box for box in boxed.boxes if box.label in names]
        placed = [grid_box(scan, box, grid.shape, displayed=prepare.displayed) for box in known]
        edges = torch.tensor(placed).float().reshape(-1, 6)
        middle, half = (edges[:, :3] + edges[:, 3:]) / 2, ((edges[:, 3:] - edges[:, :3]) / 2).clamp(min=0.5)
        edges = torch.cat([middle - half, middle + half], 1)
        labels = torch.tensor([names.index(box.label) for box in known], dtype=torch.long)
        spacing = torch.tensor(grid.spacing)
        cases.append(BoxCase(boxed.name, boxed.patient, grid.numbers().half(), edges, labels, spacing))
    return cases


def both_boxes(
    data: dict[str, Any], prepare: GridPrepare, *, seed: int
) -> tuple[list[BoxCase], list[BoxCase], list[str]]:
    """Cases to train on, held-out ones, and the names of the classes, of a recipe's `data`.

    `train`: a data set (see `find_boxes`). `validate`: another, or `hold`: a share of the patients or a list of them,
    with `split`, the seed of that share. `least`: classes with fewer training boxes are left out. `limit`: of the
    cases of each side.
    """
    check_keys("data", data, {"train", "validate", "hold", "split", "least", "limit"})
    found = find_boxes(data["train"])
    if "validate" in data:
        train, held = found.scans, find_boxes(data["validate"]).scans
    else:
        train, held = split_patients(found.scans, hold=data.get("hold"), seed=data.get("split", seed))
    if limit := data.get("limit"):
        train, held = train[:limit], held[:limit]
    counts = Counter(box.label for scan in train for box in scan.boxes)
    names = sorted(name for name, count in counts.items() if count >= data.get("least", 1))
    if not names or not held:
        raise DataError(f"{len(train)} scans to train on with {len(names)} classes, {len(held)} held out; need some")
    return read_boxes(train, names, prepare), read_boxes(held, names, prepare), names


def _voc(path: Path) -> list[BoxedScan]:
    scans = []
    for file in sorted((path / "Annotations").glob("*.xml")):
        tree = ElementTree.parse(file).getroot()
        picture = _picture(path / "JPEGImages", tree.findtext("filename") or file.stem, file.stem)
        boxes = []
        for item in tree.iter("object"):
            x0, y0, x1, y1 = (float(item.findtext(f"bndbox/{k}") or "nan") for k in ("xmin", "ymin", "xmax", "ymax"))
            if x0 < x1 and y0 < y1:  # a few sets have boxes without an inside
                boxes.append(Box(item.findtext("name") or "", (x0, y0), (x1, y1)))
        scans.append(BoxedScan(file.stem, picture, file.stem, tuple(boxes)))
    return scans


def _picture(folder: Path, name: str, stem: str) -> Path:
    if (named := folder / Path(name).name).exists():
        return named
    found = sorted(folder.glob(f"{stem}.*"))
    if not found:
        raise DataError(f"{folder} has no picture {name}")
    return found[0]


def _coco(path: Path) -> list[BoxedScan]:
    try:
        content = json.loads(path.read_text())
        named = {c["id"]: c["name"] for c in content["categories"]}
        boxes: dict[Any, list[Box]] = {image["id"]: [] for image in content["images"]}
        for row in content["annotations"]:
            if not row.get("iscrowd"):
                boxes[row["image_id"]].append(_xywh(named[row["category_id"]], row["bbox"]))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path.name}: expected COCO's images, annotations and categories ({error!r})") from error
    scans = []
    for image in content["images"]:
        file = path.parent / image["file_name"]
        file = file if file.exists() else path.parent / "images" / image["file_name"]
        patient = str(image.get("patient", image["file_name"]))
        scans.append(BoxedScan(image["file_name"], file, patient, tuple(boxes[image["id"]])))
    return scans


def _slake(root: Path, folder: Path) -> BoxedScan:
    rows = json.loads((folder / "boxes.json").read_text())
    image = next(p for p in sorted(folder.iterdir()) if p.stem == "image")
    boxes = tuple(_xywh(row["label"], row["xywh"]) for row in rows)
    return BoxedScan(folder.name, image, folder.name, boxes)


def _lines(path: Path) -> list[BoxedScan]:
    scans: dict[str, BoxedScan] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
            image, name = path.parent / row["image"], row["image"]
            if "boxes" not in row:  # a file of questions
                if name not in scans and (image.parent / "boxes.json").exists():
                    scans[name] = _slake(path.parent, image.parent)
                continue
            boxes = tuple(Box(str(b["label"]), tuple(b["low"]), tuple(b["high"])) for b in row["boxes"])
            scans[name] = BoxedScan(name, image, str(row.get("patient", name)), boxes)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path.name}, line {number}: {_EXPECTED} ({error!r})") from error
    return list(scans.values())


def _xywh(label: str, xywh: Sequence[float]) -> Box:
    x, y, width, height = map(float, xywh)
    return Box(label, (x, y), (x + width, y + height))
