"""Recipes small enough for a test: the real objectives on a narrow encoder and the phantom rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import pytest
from PIL import Image

ENCODER = {"name": "hybrid", "width": 96, "depth": 1, "heads": 4}


class Made(NamedTuple):
    """What a small recipe can be made of: rows of questions, an eye, a language model, an empty folder."""

    rows: Path
    eye: Path
    language: Path
    folder: Path


def eye_recipe(rows: Path, language: Path, **options: object) -> dict[str, object]:
    objective = {
        "name": "grounded", "model": {"encoder": ENCODER, "language": str(language)},
        "mask_values": {70: "Disk"}, "batch": 3, "imagenet": False, "prepare": {"size": 64, "max_slices": 8},
    }  # fmt: skip
    data = {"train": [str(rows)], "hold": 0.25}
    return {"objective": objective, "data": data, "train": {"epochs": 1, "rate": 1e-3, **options}}


def glance_recipe(eye: Path, rows: Path, language: Path, **options: object) -> dict[str, object]:
    model = {"language": str(language), "vision": str(eye), "encoder": ENCODER}
    objective = {"name": "glance", "batch": 3, "views": 2, "model": model}
    return {"objective": objective, "data": {"train": [str(rows)], "hold": 0.25}, "train": {"epochs": 1, **options}}


def adapter_recipe(eye: Path, rows: Path, language: Path, **options: object) -> dict[str, object]:
    objective = {
        "name": "instruct", "batch": 3, "checked": 2, "views": 2,
        "model": {
            "language": str(language), "vision": str(eye),
            "encoder": ENCODER,
            "lora": {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"},
        },
    }  # fmt: skip
    data = {"train": [str(rows)], "hold": 0.25}
    return {"objective": objective, "data": data, "train": {"epochs": 1, "rate": 1e-3, **options}}


def labelled_volumes(folder: Path, *, count: int = 6) -> Path:
    """A Decathlon data set of bright balls, label 1, each with a brighter core, label 2."""
    rows = []
    axes = np.stack(np.meshgrid(*[np.arange(24)] * 3, indexing="ij"))
    for number in range(count):
        generator = np.random.default_rng(number)
        far = np.linalg.norm(axes - generator.uniform(9, 15, 3)[:, None, None, None], axis=0)
        labels = (far < 6).astype(np.uint8) + (far < 3)
        values = 100 * labels + generator.normal(0, 10, labels.shape)
        for kind, data in (("imagesTr", values.astype(np.float32)), ("labelsTr", labels)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), folder / kind / f"case{number}.nii.gz")
        rows.append({"image": f"./imagesTr/case{number}.nii.gz", "label": f"./labelsTr/case{number}.nii.gz"})
    about = {"name": "balls", "labels": {"0": "background", "1": "ball", "2": "core"}, "training": rows}
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


def body(folder: Path) -> Path:
    """A CT in HU, 96 slices of 24 x 24: nested cylinders with texture, each slice a little different."""
    if not all(map(find_spec, ("deepinv", "sigpy"))):
        pytest.skip("needs medfm[recon]")
    generator, axes = np.random.default_rng(0), np.stack(np.meshgrid(*[np.linspace(-1, 1, 24)] * 2, indexing="ij"))
    far = np.linalg.norm(axes * np.array([1.0, 1.2])[:, None, None], axis=0)[..., None] + np.linspace(0, 0.1, 96)
    values = (far < 0.9) * 1.0 + (far < 0.6) * 0.3 - (far < 0.3) * 0.2
    values = values * (1 + 0.1 * generator.normal(size=far.shape)) * 1000 - 1000
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "body.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), np.diag([3.0, 3.0, 3.0, 1.0])), path)
    return path


def label_maps(folder: Path, *, count: int = 2) -> list[str]:
    """Label maps with FreeSurfer's numbers at 4 mm: two hemispheres with a rim of cortex and a ventricle each."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        x, y, z = np.meshgrid(*[np.arange(48) - 23.5] * 3, indexing="ij")  # RAS: x runs to the right
        far = np.sqrt((x / (15 + number)) ** 2 + (y / 18) ** 2 + (z / 15) ** 2)
        labels = np.where(far < 1.25, 258, 0)
        for side, (white, cortex, ventricle) in ((x < 0, (2, 3, 4)), (x > 0, (41, 42, 43))):
            labels[side & (far < 1)], labels[side & (far < 0.8)] = cortex, white
            labels[side & (far < 0.3)] = ventricle
        paths.append(str(folder / f"subject_{number}.nii.gz"))
        nibabel.save(nibabel.Nifti1Image(labels.astype(np.int16), np.diag([4.0, 4.0, 4.0, 1.0])), paths[-1])
    return paths


def boxed_pictures(folder: Path, *, count: int = 16) -> Path:
    """JSON lines of grey pictures with bright squares and bars, boxed; every fourth picture is empty."""
    folder.mkdir(parents=True, exist_ok=True)
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
        Image.fromarray(pixels).save(folder / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "boxes": boxes}))
    file = folder / "boxes.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return file


def labelled_pictures(folder: Path, *, count: int = 24) -> Path:
    """JSON lines of grey pictures strewn with bright pixels, "salt", some with a bright "square" besides."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        generator = np.random.default_rng(number)
        label, pixels = ("square", "salt")[number % 2], generator.integers(20, 60, (48, 48), dtype=np.uint8)
        pixels.ravel()[generator.permutation(48 * 48)[:200]] = 200
        if label == "square":
            x, y = generator.integers(0, 36, 2)
            pixels[y : y + 12, x : x + 12] = 200
        Image.fromarray(pixels).save(folder / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "label": label, "patient": f"p{number}"}))
    file = folder / "labels.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return file


def _questions(made: Made) -> list[str]:
    return [
        "objective.model.encoder={name: hybrid, width: 96, depth: 1, heads: 4}",
        f"objective.model.language='{made.language}'",
        f"data={{train: ['{made.rows}'], hold: 0.25}}", "objective.batch=3",
    ]  # fmt: skip


# What makes a recipe small enough to train for one pass in a test, by the name of its objective.
SMALL: dict[str, Callable[[Made], list[str]]] = {
    "grounded": lambda made: [
        *_questions(made), "objective.imagenet=false", "objective.prepare={size: 64}",
        "objective.mask_values={70: Disk}",
    ],
    "glance": lambda made: [*_questions(made), "objective.views=2", f"objective.model.vision='{made.eye}'"],
    "instruct": lambda made: [
        *_questions(made), "objective.views=2", "objective.checked=2", f"objective.model.vision='{made.eye}'",
        "objective.model.adapter=null",
    ],
    "prompted": lambda made: [
        f"data.sets=[{{train: '{labelled_volumes(made.folder / 'balls', count=2)}', hold: 0.5}}]",
        "objective.prepare.size=48", "objective.model.head={size: 32}", "objective.batch=8", "objective.checked=4",
        "objective.repeats=1", "train.budget=0",
    ],
    "supervised": lambda made: [
        f"data.train='{labelled_volumes(made.folder / 'balls')}'", "data.hold=0.34", "objective.patch=[16, 32, 32]",
        "objective.tile=[16, 32, 32]", "train.budget=0", "objective.repeats=1", "objective.batch=1",
        "objective.prepare.size=32", "data.labels={1: ball, 2: core}", "objective.largest=[]",
    ],
    "painted": lambda made: [
        "data={{train: ['{}'], validate: ['{}']}}".format(*label_maps(made.folder / "heads")), "train.budget=0",
        "objective.window=[32, 32, 32]", "objective.spacing=5.0", "objective.samples=2", "objective.looks=1",
        "objective.model.encoder.channels=[8, 8, 16, 16]", "objective.model.encoder.convs=1",
        "objective.model.head.convs=1", "objective.model.head.deep=1",
    ],
    "registration": lambda made: [
        f"data.train='{labelled_volumes(made.folder / 'balls')}'", "data.hold=0.34", "objective.patch=[32, 32, 32]",
        "objective.model.encoder.channels=[4, 8, 8, 8]", "objective.model.encoder.strides=[1, 2, 2, 2]",
        "objective.model.encoder.convs=1", "objective.model.encoder.inputs=2", "objective.checked=2", "train.budget=0",
    ],
    "reconstruction": lambda made: [
        f"data={{train: ['{body(made.folder)}'], hold: [0.3, 0.7], gap: 1, size: 40, every: 12}}",
        "objective.checked=1", "objective.batch=1", "objective.perceptual=null", "train.budget=0",
    ],
    "cycle": lambda made: [
        f"data={{a: ['{body(made.folder)}'], b: ['{body(made.folder)}'], hounsfield: [true, true], size: 32, hold: "
        "[0.3, 0.7], gap: 1, paired: true}",
        "objective.model={generator: {width: 4, blocks: 1}, critic: {channels: 4}}", "train.budget=0",
        "objective.checked=2", "objective.batch=8",
    ],
    "diffusion": lambda made: [
        f"data={{train: ['{body(made.folder)}'], hold: [0.3, 0.7], gap: 1, size: 16}}", "objective.hounsfield=true",
        "objective.model={steps: 20, unet: {channels: [8, 8], attention_levels: [false, true], num_res_blocks: 1, "
        "norm_num_groups: 4, num_head_channels: 8}}", "objective.checked=2", "objective.repeats=1", "train.budget=0",
    ],
    "classification": lambda made: [
        f"data={{train: '{labelled_pictures(made.folder / 'labels')}', hold: 0.25, tune: 0.25}}", "objective.batch=4",
        "objective.prepare={size: 80, channels: 3, intensity: range}", "objective.patch=[1, 80, 80]", "train.budget=0",
    ],
    "detection": lambda made: [
        f"data={{train: '{boxed_pictures(made.folder / 'boxes')}', hold: 0.25}}", "objective.batch=4",
        "objective.patch=[1, 64, 64]", "objective.tile=[1, 64, 64]", "objective.repeats=1", "objective.checked=2",
        "objective.prepare.size=64", "train.budget=0",
    ],
}  # fmt: skip
