"""A run that dies at any moment, or finds the disk full, goes on from its last whole checkpoint."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from safetensors.torch import load_file
from small_recipes import eye_recipe

from medfm.errors import ConfigError
from medfm.train.checkpoint import Checkpoint
from medfm.train.loop import train


@pytest.fixture
def recipe(phantom_rows: Path, tiny_language: Path) -> dict[str, Any]:
    return eye_recipe(phantom_rows, tiny_language, epochs=2, minutes=0)  # a checkpoint after every step


def before_checkpoint(monkeypatch: pytest.MonkeyPatch, number: int, happens: Callable[[Path], None]) -> None:
    """Let something happen when all of the `number`-th checkpoint is written, and before it counts."""
    save, calls = Accelerator.save_state, []

    def saved(self: Accelerator, folder: str) -> None:
        calls.append(folder)
        save(self, folder)
        if len(calls) == number:
            happens(Path(folder))

    monkeypatch.setattr(Accelerator, "save_state", saved)


def tear(folder: Path) -> None:
    """What kill -9 leaves in the middle of a write."""
    file = folder / "optimizer.bin"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    raise KeyboardInterrupt


def logged(output: Path) -> list[int]:
    return [json.loads(line)["epoch"] for line in (output / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("number", [1, 3, 4])  # the first of all; in a pass; after the line of the first pass is logged
def test_killed_while_a_checkpoint_is_written(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    whole = load_file(train(recipe, output=tmp_path / "whole") / "vision.safetensors")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        before_checkpoint(patch, number, tear)
        train(recipe, output=tmp_path / "killed")
    resumed = load_file(train(recipe, output=tmp_path / "killed", resume=True) / "vision.safetensors")
    assert logged(tmp_path / "killed") == [1, 2]
    for name, tensor in whole.items():
        assert (resumed[name].float() - tensor.float()).abs().max() < 2e-3, name
    assert sorted(f.name for f in (tmp_path / "killed").glob("checkpoint*")) == ["checkpoint"]


def test_killed_while_old_and_new_change_places(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, calls = Path.rename, []

    def dies(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 5:  # the first checkpoint is renamed once, each later one twice: the old one is away
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", dies)
        train(recipe, output=tmp_path)
    assert not (tmp_path / "checkpoint").exists()
    with pytest.raises(ConfigError, match="--resume"):  # it is still a run that must not be overwritten
        train(recipe, output=tmp_path)
    train(recipe, output=tmp_path, resume=True)
    assert logged(tmp_path) == [1, 2]


def test_a_full_disk_leaves_the_checkpoint_before(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def no_room(folder: Path) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))

    try:
        with monkeypatch.context() as patch, pytest.raises(OSError, match=r"could not be written.*epoch 1, step 2"):
            before_checkpoint(patch, 2, no_room)
            train(recipe, output=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    train(recipe, output=tmp_path, resume=True)
    assert logged(tmp_path) == [1, 2]


def test_what_a_resumed_run_does_otherwise_is_said(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(recipe, output=tmp_path)
    longer = {**recipe, "train": {**recipe["train"], "epochs": 3, "clip": 2.0}}
    train(longer, output=tmp_path, resume=True)
    said = " ".join(capsys.readouterr().err.split())
    assert "goes on at epoch 3, step 0" in said and "began with train.clip unset, train.epochs=2;" in said
    assert logged(tmp_path) == [1, 2, 3]


def test_a_complete_run_takes_no_step_more(recipe: dict[str, Any], tmp_path: Path) -> None:
    spent = {**recipe, "train": {**recipe["train"], "epochs": 9, "budget": 1e-6}}
    train(spent, output=tmp_path)
    before = (tmp_path / "vision.safetensors").read_bytes()
    train(spent, output=tmp_path, resume=True)
    assert logged(tmp_path) == [1] and (tmp_path / "vision.safetensors").read_bytes() == before


def test_another_network_is_refused_with_what_differs(recipe: dict[str, Any], tmp_path: Path) -> None:
    train(recipe, output=tmp_path)
    model = {**recipe["objective"]["model"], "encoder": {"name": "hybrid", "width": 48, "depth": 1, "heads": 4}}
    with pytest.raises(ConfigError, match=r"cannot be gone on from.*objective\.model\.encoder\.width=96"):
        train({**recipe, "objective": {**recipe["objective"], "model": model}}, output=tmp_path, resume=True)


def test_resume_without_a_checkpoint_begins_and_says_so(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(recipe, output=tmp_path / "empty", resume=True)
    assert "holds no checkpoint" in " ".join(capsys.readouterr().err.split())
    assert Checkpoint(tmp_path / "empty", recipe).last() == tmp_path / "empty" / "checkpoint"
