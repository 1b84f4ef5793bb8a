"""Every recipe under tasks/ builds, takes its steps with a finite loss, and leaves what its card promises."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from medfm import assets, registry
from medfm.config import load_recipe
from medfm.train.loop import train

TASKS = assets.root() / "tasks"
RECIPES = sorted(p.relative_to(TASKS).with_suffix("").as_posix() for p in TASKS.rglob("*.yaml"))
SMALL = {
    "grounded": [
        "objective.imagenet=false",
        "objective.model.encoder={name: hybrid, width: 96, depth: 1, heads: 4}",
        "objective.prepare={size: 64}",
        "objective.mask_values={70: Disk}",
    ],
    "glance": ["objective.model.encoder={name: hybrid, width: 96, depth: 1, heads: 4}", "objective.views=2"],
    "instruct": ["objective.model.encoder={name: hybrid, width: 96, depth: 1, heads: 4}", "objective.checked=2"],
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_trains(name: str, phantom_rows: Path, eye_folder: Path, tiny_language: Path, tmp_path: Path) -> None:
    kind = load_recipe(name)["objective"]["name"]
    overrides = [*SMALL[kind], f"data={{train: ['{phantom_rows}'], hold: 0.25}}", "train.epochs=1", "objective.batch=3"]
    overrides.append(f"objective.model.language='{tiny_language}'")
    if kind in ("glance", "instruct"):
        overrides.append(f"objective.model.vision='{eye_folder}'")
    folder = train(load_recipe(name, overrides), output=tmp_path / "run")
    (entry,) = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert math.isfinite(entry["loss"]) and 0 <= entry["score"] <= 1
    assert (folder / "vision.safetensors").exists()


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_short_and_names_a_registered_objective(name: str) -> None:
    lines = [line for line in (TASKS / f"{name}.yaml").read_text().splitlines() if not line.lstrip().startswith("#")]
    assert len(lines) <= 30
    assert load_recipe(name)["objective"]["name"] in registry.names("objectives")


def test_every_task_has_a_card() -> None:
    for recipe in RECIPES:
        assert (TASKS / recipe).parent.joinpath("README.md").exists()
