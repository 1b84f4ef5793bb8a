"""Every recipe under tasks/ builds, takes its steps with a finite loss, and leaves what its card promises."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from small_recipes import SMALL, Made

from medfm import assets, registry
from medfm.config import load_recipe
from medfm.train.loop import train

TASKS = assets.root() / "tasks"
RECIPES = sorted(p.relative_to(TASKS).with_suffix("").as_posix() for p in TASKS.rglob("*.yaml"))


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_trains(name: str, phantom_rows: Path, eye_folder: Path, tiny_language: Path, tmp_path: Path) -> None:
    kind = load_recipe(name)["objective"]["name"]
    if kind not in SMALL:
        pytest.fail(f"tests/small_recipes.py: add to SMALL what makes a recipe of the objective {kind!r} small")
    made = Made(phantom_rows, eye_folder, tiny_language, tmp_path / "made")
    folder = train(load_recipe(name, [*SMALL[kind](made), "train.epochs=1"]), output=tmp_path / "run")
    (entry,) = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert math.isfinite(entry["loss"]) and math.isfinite(entry["score"])
    assert list(folder.glob("*.safetensors"))


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_short_and_names_a_registered_objective(name: str) -> None:
    lines = [line for line in (TASKS / f"{name}.yaml").read_text().splitlines() if not line.lstrip().startswith("#")]
    assert len(lines) <= 30
    assert load_recipe(name)["objective"]["name"] in registry.names("objectives")


def test_the_list_of_systems_names_every_recipe_and_nothing_else() -> None:
    text = (TASKS / "README.md").read_text()
    folders = "|".join(sorted({recipe.split("/")[0] for recipe in RECIPES}))
    named = set(re.findall(rf"`((?:{folders})/[\w-]+)`", text))
    by_folder = {f"{folder}/{name}" for folder in ("pretraining",) for name in re.findall(r"`(\w+)`", text)}
    assert named - set(RECIPES) == set()
    assert set(RECIPES) - named - by_folder == set()


def test_every_task_has_a_card() -> None:
    for recipe in RECIPES:
        assert (TASKS / recipe).parent.joinpath("README.md").exists()
