"""Small made-up data sets, one for each kind of task, to see a recipe run in a minute; nothing in them is anatomy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfm.scan import Mask, Scan

__all__ = ["body", "boxed_pictures", "labelled_pictures", "labelled_volumes", "write_toys"]


def write_toys(folder: Path) -> dict[str, Path]:
    """All of them below `folder`: name -> what `data.train=` takes."""
    return {
        "volumes": labelled_volumes(folder / "volumes", count=12, size=40),
        "boxes": boxed_pictures(folder / "boxes", count=60),
        "labels": labelled_pictures(folder / "labels", count=80),
        "body": body(folder, size=64),
    }


def labelled_volumes(folder: Path, *, count: int = 6, size: int = 24) -> Path:
    """A Decathlon data set of bright balls, label 1, each with a brighter core, label 2; sides of `size` mm."""
    rows, affine, middle = [], np.eye(4), size / 2
    axes = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"))
    for number in range(count):
        generator = np.random.default_rng(number)
        far = np.linalg.norm(axes - generator.uniform(middle - 3, middle + 3, 3)[:, None, None, None], axis=0)
        labels = (far < size / 4).astype(np.uint8) + (far < size / 8)
        values = 100 * labels + generator.normal(0, 10, labels.shape)
        names = {kind: f"{kind}/case{number}.nii.gz" for kind in ("imagesTr", "labelsTr")}
        Scan.from_array(values.astype(np.float32), affine=affine).write(folder / names["imagesTr"])
        Mask(labels, affine).write(folder / names["labelsTr"])
        rows.append({"image": f"./{names['imagesTr']}", "label": f"./{names['labelsTr']}"})
    about = {"name": "balls", "labels": {"0": "background", "1": "ball", "2": "core"}, "training": rows}
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


def body(folder: Path, *, size: int = 24) -> Path:
    """A CT in HU, 96 slices of `size` x `size`: nested cylinders with texture, each slice a little different."""
    generator, axes = np.random.default_rng(0), np.stack(np.meshgrid(*[np.linspace(-1, 1, size)] * 2, indexing="ij"))
    far = np.linalg.norm(axes * np.array([1.0, 1.2])[:, None, None], axis=0) + np.linspace(0, 0.1, 96)[:, None, None]
    values = (far < 0.9) * 1.0 + (far < 0.6) * 0.3 - (far < 0.3) * 0.2
    values = values * (1 + 0.1 * generator.normal(size=far.shape)) * 1000 - 1000
    path = folder / "body.nii.gz"
    Scan.from_array(values.astype(np.float32), affine=np.diag([3.0, 3.0, 3.0, 1.0])).write(path)
    return path


def boxed_pictures(folder: Path, *, count: int = 16) -> Path:
    """JSON lines of grey pictures with bright squares and bars, boxed; every fourth picture is empty."""
    lines = []
    for number in range(count):
        generator = np.random.default_rng(number)
        pixels, boxes = generator.integers(20, 60, (64, 64), dtype=np.uint8), []
        for label, (w, h) in (("square", (14, 14)), ("bar", (26, 8))):
            if number % 4 == 3:
                continue
            x = int(generator.integers(0, 64 - w))
            y = int(generator.integers(0, 32 - h)) + (32 if label == "bar" else 0)
            pixels[y : y + h, x : x + w] = 200
            boxes.append({"label": label, "low": [x, y], "high": [x + w, y + h]})
        lines.append({"image": _picture(folder / f"{number}.png", pixels), "boxes": boxes})
    return _rows(folder / "boxes.jsonl", lines)


def labelled_pictures(folder: Path, *, count: int = 24) -> Path:
    """JSON lines of grey pictures strewn with bright pixels, "salt", some with a bright "square" besides."""
    lines = []
    for number in range(count):
        generator = np.random.default_rng(number)
        label, pixels = ("square", "salt")[number % 2], generator.integers(20, 60, (48, 48), dtype=np.uint8)
        pixels.ravel()[generator.permutation(48 * 48)[:200]] = 200
        if label == "square":
            x, y = generator.integers(0, 36, 2)
            pixels[y : y + 12, x : x + 12] = 200
        image = _picture(folder / f"{number}.png", pixels)
        lines.append({"image": image, "label": label, "patient": f"p{number}"})
    return _rows(folder / "labels.jsonl", lines)


def _picture(path: Path, pixels: NDArray[np.uint8]) -> str:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path.name


def _rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
