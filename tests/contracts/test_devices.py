"""Training and verbs where the network lies on another device than the data: as on a GPU, which none of us has."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from second_device import second_device
from small_recipes import SMALL, Made

import medfm
from medfm import config
from medfm.config import load_recipe
from medfm.predict import explain
from medfm.scan import RawData, Scan

RECIPES = [
    "segmentation/unet", "segmentation/mean-teacher", "segmentation/medsam", "registration/voxelmorph",
    "detection/cells", "detection/nodules-two-stage", "classification/skin", "reconstruction/cascade",
    "reconstruction/wgan", "synthesis/cycle", "synthesis/diffusion",
]  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_and_a_check_of_each_objective(name: str, tmp_path: Path) -> None:
    nowhere = Path()
    kind = load_recipe(name)["objective"]["name"]
    recipe = load_recipe(name, SMALL[kind](Made(nowhere, nowhere, nowhere, tmp_path / "made")))
    objective: Any = config.build("objectives", recipe["objective"], data=recipe["data"], seed=0)
    (indices, *_) = iter(objective.batches)
    batch = objective.collate(indices)
    with second_device(objective):
        there = {key: value.to(objective.network.device) for key, value in batch.items()}
        loss = objective.train()(there)["loss"]
        loss.backward()
        with torch.no_grad():
            score = objective.eval().evaluate()["score"]
    assert math.isfinite(loss.item()) and math.isfinite(score)


def scans() -> dict[str, Any]:
    random = np.random.default_rng(0)
    lines = np.zeros((1, 1, 32, 32), np.complex64)
    lines[:, :, ::4] = random.normal(size=(1, 1, 8, 32))
    return {
        "mr": Scan.from_array(random.random((20, 24, 22)).astype(np.float32), affine=np.eye(4), modality="MR"),
        "ct": Scan.from_array(random.normal(0, 300, (4, 40, 48)).astype(np.int16), affine=np.eye(4), units="HU"),
        "photo": Scan.from_array(random.integers(0, 255, (64, 96, 3), dtype=np.uint8)), "raw": RawData("kspace", lines),
    }  # fmt: skip


VERBS: dict[str, tuple[Any, Any]] = {
    "hippocampus": (medfm.load_segmenter, lambda m, s: medfm.segment(m, s["mr"], flip=True).array),
    "cells": (medfm.load_detector, lambda m, s: [[*b.low, *b.high, b.score] for b in medfm.detect(m, s["photo"])]),
    "skin": (medfm.load_classifier, lambda m, s: [*medfm.classify(m, s["photo"]).probabilities.values()]),
    "pneumonia": (medfm.load_classifier, lambda m, s: explain(m, s["photo"], m.labels[0])),
    "hippocampus-registration": (
        medfm.load_registrar, lambda m, s: medfm.register(s["mr"], s["mr"], model=m, optimise=True).field
    ),
    "prompt": (medfm.load_prompter, lambda m, s: medfm.outline_marked(m, s["ct"], point=(20.0, 20.0, 2.0))),
    "low-dose-ct": (medfm.load_reconstructor, lambda m, s: medfm.denoise(s["ct"], models=[m]).scan.data),
    "mri-cascade": (medfm.load_reconstructor, lambda m, s: medfm.reconstruct(s["raw"], models=[m]).scan.data),
}  # fmt: skip


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_gives_the_same_numbers(name: str) -> None:
    load, verb = VERBS[name]
    model = load(name)
    here = verb(model, scans())
    with second_device(model):
        there = verb(model, scans())
    if name == "prompt":
        here, there = ((None if mask is None else mask.array) for mask in (here, there))
    assert here is there is None or np.allclose(here, there, atol=1e-5)


def test_a_question_is_answered_the_same(adapter_folder: Path) -> None:
    model = medfm.load(adapter_folder)
    here = medfm.ask(model, scans()["photo"], "On which side is the disk?")
    model._readings.clear()
    with second_device(model):
        there = medfm.ask(model, scans()["photo"], "On which side is the disk?")
    assert (here.text, here.confidence) == (there.text, pytest.approx(there.confidence))
