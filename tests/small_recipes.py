"""Recipes small enough for a test: the real objectives on a narrow encoder and the phantom rows."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import pytest

from medfm.data import toy
from medfm.data.toy import boxed_pictures, labelled_pictures, labelled_volumes

__all__ = [
    "CASCADE", "PLAIN", "SMALL", "Made", "adapter_recipe", "body", "boxed_pictures", "eye_recipe", "glance_recipe",
    "label_maps", "labelled_pictures", "labelled_volumes",
]  # fmt: skip

ENCODER = {"name": "hybrid", "width": 96, "depth": 1, "heads": 4}


class Made(NamedTuple):
    """What a small recipe can be made of: rows of questions, an eye, a language model, an empty folder."""

    rows: Path
    eye: Path
    language: Path
    folder: Path


CASCADE: dict[str, Any] = {
    "encoder": {"name": "stack", "inputs": 2, "channels": [6, 6], "drop": 0.2},
    "head": {"name": "unrolled", "cascades": 2},
    "physics": {"name": "mri", "acceleration": 3},
}
PLAIN: dict[str, Any] = {
    "encoder": {"name": "stack", "channels": [6]}, "head": {"name": "direct"}, "physics": {"name": "ct", "views": 30},
}  # fmt: skip


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


def body(folder: Path) -> Path:
    """`toy.body`, where what reconstruction needs is installed."""
    if not all(map(find_spec, ("deepinv", "sigpy"))):
        pytest.skip("needs medfm[recon]")
    return toy.body(folder)


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
        "objective.prepare.size=32", "data.labels={1: ball, 2: core}",
        "objective.largest=[]", "objective.meet=[]",
    ],
    "painted": lambda made: [
        "data={{train: ['{}'], validate: ['{}']}}".format(*label_maps(made.folder / "heads")), "train.budget=0",
        "objective.window=[32, 32, 32]", "objective.spacing=5.0", "objective.samples=2", "objective.looks=1",
        "objective.model.encoder.channels=[8, 8, 16, 16]", "objective.model.encoder.convs=1",
        "objective.model.head.convs=1", "objective.model.head.deep=1",
    ],
    "planted": lambda made: [
        "data={{train: ['{}'], validate: ['{}']}}".format(*label_maps(made.folder / "heads")), "train.budget=0",
        "objective.model.spacing=8.0", "objective.samples=2", "objective.looks=2",
        "objective.model.encoder.channels=[8, 8, 16]",
    ],
    "registration": lambda made: [
        f"data.train='{labelled_volumes(made.folder / 'balls')}'", "data.hold=0.34", "objective.patch=[32, 32, 32]",
        "objective.model.encoder.channels=[4, 8, 8, 8]", "objective.model.encoder.strides=[1, 2, 2, 2]",
        "objective.model.encoder.convs=1", "objective.model.encoder.inputs=2", "objective.model.guide=null",
        "objective.checked=2", "train.budget=0",
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
