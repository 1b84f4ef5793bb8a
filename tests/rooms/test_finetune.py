"""`medfm finetune` as a stranger would use it, and what it promises: small, honest, nothing cut, nothing mixed."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from medfm import assets
from medfm.cli import main
from medfm.config import build
from medfm.data.batches import loader
from medfm.data.check import check
from medfm.data.questions import Case, fold_of
from medfm.model import load
from medfm.objectives.own import Own
from medfm.predict import ask_many
from medfm.scan import Scan
from medfm.train import loop
from medfm.train.finetune import own_recipe
from medfm.train.loop import train
from medfm.vision import Glimpse

QUESTIONS = ["Is there a disk?", "On which side is the disk?"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapter_folder: Path) -> Path:
    """A user's data folder that has the adapter "parent"."""
    monkeypatch.setenv("MEDFM_HOME", str(tmp_path / "home"))
    parent = tmp_path / "home" / "adapters" / "parent"
    shutil.copytree(adapter_folder, parent, ignore=shutil.ignore_patterns("checkpoint"))
    return tmp_path / "home"


@pytest.fixture
def medfm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Type a command; its code and all it says."""

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["medfm", *words])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out + captured.err

    return run


def own(home: Path, rows: Path, **options: object) -> Own:
    node = {"name": "own", "adapter": "parent", "batch": 2, "views": 2, **options}
    return build("objectives", node, data={"train": [str(rows)], "hold": 0.25}, seed=0)


def mixed_rows(phantom_rows: Path, folder: Path) -> Path:
    rows = [json.loads(line) for line in phantom_rows.read_text().splitlines()]
    for row in rows:
        row["image"] = str(phantom_rows.parent / row["image"])
    for number in range(4):
        values = np.random.default_rng(number).integers(-900, 900, (5 + number, 40, 40)).astype(np.int16)
        volume = Scan.from_array(values, affine=np.diag([2, 2, 5, 1]), modality="CT", units="HU")
        volume.write(folder / f"volume{number}.nii.gz")
        rows.append({"image": str(folder / f"volume{number}.nii.gz"), "question": "Is it noise?", "answer": "Noise"})
    file = folder / "mixed.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def test_from_data_to_an_adapter_that_is_asked_merged_and_removed(
    home: Path, phantom_rows: Path, medfm: Callable[..., tuple[int, str]], tiny_language: Path
) -> None:
    code, said = medfm(
        "finetune", str(phantom_rows), "--name", "mine", "--adapter", "parent", "--passes", "2", "--licence", "cc0-1.0",
        "--hold", "0.25",
    )  # fmt: skip
    assert code == 0, said
    assert "million parameters are trained" in said and "GB of memory" in said and "minutes a pass" in said
    folder = home / "adapters" / "mine"
    names = {"adapter_config.json", "adapter_model.safetensors", "vision.safetensors", "medfm.json", "metrics.json"}
    assert {f.name for f in folder.iterdir()} == {*names, "README.md"}
    card = (folder / "README.md").read_text()
    for word in ('license: "cc0-1.0"', "medfm finetune rows.jsonl", "blank image", "held out", "not for diagnosis"):
        assert word in card
    assert str(phantom_rows.parent) not in "".join(f.read_text() for f in folder.glob("*.[jm][sd]*"))
    stored = set(load_file(folder / "vision.safetensors"))
    assert not [n for n in stored if n.startswith(("encoder", "structures", "connector.patch", "connector.note"))]
    assert {"connector.gain", "glance.members.0.choose.1.weight"} <= stored
    held = {json.loads(line)["image"] for line in (home / "runs" / "mine" / "held.jsonl").read_text().splitlines()}
    assert len(held) == 3
    scan = Scan.read(next(iter(held)))
    answers = [a.text for a in ask_many(load("mine"), scan, QUESTIONS)]

    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_language), str(folder))
    assert plain.peft_config["default"].r == 4
    assert medfm("adapter", "merge", "mine", "--output", str(home / "whole"))[0] == 0
    assert medfm("adapter", "remove", "mine", "--yes")[0] == 0
    assert [f.name for f in assets.own_adapters()] == ["parent"]
    shutil.rmtree(home / "adapters" / "parent")
    assert [a.text for a in ask_many(load(home / "whole"), scan, QUESTIONS)] == answers


def test_bad_rows_stop_it_unless_they_are_to_be_left_out(
    home: Path, phantom_rows: Path, tmp_path: Path, medfm: Callable[..., tuple[int, str]]
) -> None:
    rows = [json.loads(line) for line in phantom_rows.read_text().splitlines()]
    rows[0]["answer"] = "Seen by Dr. Brown"
    rows[2]["image"] = "missing.png"
    for row in rows:
        row["image"] = str(phantom_rows.parent / row["image"])
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    code, said = medfm("finetune", str(file), "--name", "mine", "--adapter", "parent")
    assert code == 2 and "2 of 24 rows" in said and "--skip-bad" in said and "looks like a name" in said
    assert medfm("data", "check", str(file))[0] == 1
    code, said = medfm(
        "finetune", str(file), "--name", "mine", "--adapter", "parent", "--passes", "1", "--skip-bad"
    )  # fmt: skip
    assert code == 0 and "Rows left out as unusable: 2" in (home / "adapters" / "mine" / "README.md").read_text()
    assert medfm("finetune", str(file), "--name", "mine", "--adapter", "parent", "--skip-bad")[0] == 2  # taken
    assert medfm("finetune", str(file), "--name", "default", "--skip-bad")[0] == 2  # shipped


def test_killed_while_it_is_measured_it_goes_on_to_its_card(
    home: Path, phantom_rows: Path, medfm: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("finetune", str(phantom_rows), "--name", "mine", "--adapter", "parent")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("medfm.evaluate.evaluate_vqa", killed)
        assert medfm(*command, "--passes", "1", "--licence", "cc0-1.0")[0] != 0
    folder, run = home / "adapters" / "mine", home / "runs" / "mine"
    assert (folder / "medfm.json").exists() and not (folder / "README.md").exists()
    assert "holds an adapter already" in medfm(*command)[1]
    code, said = medfm(*command, "--resume")  # with the one pass that it began with
    assert code == 0 and len((run / "log.jsonl").read_text().splitlines()) == 1, said
    card = (folder / "README.md").read_text()
    assert 'license: "cc0-1.0"' in card and "--passes 1" in card and (folder / "metrics.json").exists()
    assert "holds an adapter already" in medfm(*command, "--resume")[1]


def test_a_run_that_was_cut_short_goes_on_with_other_minutes_or_is_removed(
    home: Path, phantom_rows: Path, tmp_path: Path, medfm: Callable[..., tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    command = ("finetune", str(phantom_rows), "--name", "mine", "--adapter", "parent")
    end_pass, passes = loop._Run.end_pass, []

    def killed(self: loop._Run, epoch: int) -> None:
        passes.append(epoch)
        if len(passes) == 2:
            raise KeyboardInterrupt
        end_pass(self, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "end_pass", killed)
        assert medfm(*command, "--passes", "5")[0] != 0
    assert "cut short: go on with it by --resume" in medfm(*command)[1]
    other = tmp_path / "other.jsonl"
    shutil.copy(phantom_rows, other)
    shutil.copytree(phantom_rows.parent / "images", tmp_path / "images")
    assert f"began with {phantom_rows}" in " ".join(medfm("finetune", str(other), *command[2:], "--resume")[1].split())
    shutil.copytree(home / "runs" / "mine", home / "runs" / "again")
    code, said = medfm(*command, "--resume", "--passes", "2")
    assert code == 0 and "goes on at epoch 2" in said and "2 passes at most" in said
    assert len((home / "runs" / "mine" / "log.jsonl").read_text().splitlines()) == 2
    assert medfm("adapter", "remove", "again", "--yes")[0] == 0 and not (home / "runs" / "again").exists()
    assert medfm("adapter", "remove", "..", "--yes")[0] == 2 and (home / "runs").exists()


def test_only_rows_of_the_task_are_used(home: Path, phantom_rows: Path, tmp_path: Path) -> None:
    image = str(phantom_rows.parent / json.loads(phantom_rows.read_text().splitlines()[0])["image"])
    file = tmp_path / "rows.jsonl"
    file.write_text(
        "\n".join(
            json.dumps({"image": image, **row})
            for row in ({"question": "Is it?", "answer": "Yes"}, {"report": "A disk."})
        )
    )
    found = check(file)
    for task, left_out in (("vqa", found.reports), ("report", found.questions)):
        assert own_recipe(str(file), found, task=task, adapter="parent")["data"]["skip"] == left_out  # type: ignore[arg-type]


def test_loss_is_on_the_answers_only(home: Path, phantom_rows: Path) -> None:
    objective = own(home, phantom_rows)
    model = objective.model
    for batch in loader(objective.batches, objective.collate):
        for text, target, segment in zip(batch["text"], batch["target"], batch["segment"], strict=True):
            learned = [target[(segment == n) & (target >= 0)] for n in range(1, int(segment.max()) + 1)]
            said = {model.tokenizer.decode(ids) for ids in learned}
            assert said <= {"Yes<|im_end|>", "Left<|im_end|>", "Right<|im_end|>"}
            assert bool((target[segment <= 0] == -100).all()) and len(text) == len(target)


def test_image_tokens_are_never_cut(home: Path, tmp_path: Path, phantom_rows: Path) -> None:
    image = str(phantom_rows.parent / json.loads(phantom_rows.read_text().splitlines()[0])["image"])
    row = {"image": image, "question": "Why? " * 400, "answer": "Because. " * 400}
    file = tmp_path / "long.jsonl"
    file.write_text("\n".join(json.dumps({**row, "question": f"{n} {row['question']}"}) for n in range(2)))
    objective = build(
        "objectives", {"name": "own", "adapter": "parent", "views": 1}, seed=0,
        data={"train": [str(file)], "validate": [str(file)]},
    )  # fmt: skip
    (batch,) = loader(objective.batches, objective.collate)
    connector = objective.model.vision.connector
    places = connector.count(1, objective.model.preparation.size // 32)
    head = len(objective.model.prompt.head(objective.model.tokenizer))
    assert int((batch["segment"] == 0).sum()) >= head + places
    assert batch["patches"].shape[1:4].numel() + connector.notes == places
    assert bool((batch["text"][0, head : head + places] == 0).all())


def test_pictures_and_volumes_never_share_a_batch(home: Path, phantom_rows: Path, tmp_path: Path) -> None:
    objective = own(home, mixed_rows(phantom_rows, tmp_path))
    volumes = {i for i, c in enumerate(objective.cases) if c.prepared.x.shape[1] > 1}
    assert volumes and all(c.prepared.x.is_meta for c in objective.cases)
    for epoch in range(4):
        objective.batches.epoch = epoch
        assert all(set(batch) <= volumes or not set(batch) & volumes for batch in objective.batches)


def test_new_answers_are_added_and_old_ones_kept(home: Path, phantom_rows: Path, tmp_path: Path) -> None:
    before = load("parent").vision
    objective = own(home, mixed_rows(phantom_rows, tmp_path))
    answers = objective.model.vision.answers
    assert answers == [*before.answers, "Noise"]
    assert objective.model.vision.glance is not None and before.glance is not None
    assert {m.choose[-1].out_features for m in objective.model.vision.glance.members} == {len(answers)}
    trained = {n for n, p in objective.model.vision.named_parameters() if p.requires_grad}
    assert trained == {"connector.norm.weight", "connector.norm.bias", "connector.gain"}
    encoder, eye = before.encoder.state_dict(), objective.model.vision.encoder.state_dict()
    assert all(torch.equal(eye[n], t) for n, t in encoder.items())


def test_a_case_gets_its_proposals_from_the_twin_that_has_not_learned_from_it(
    home: Path, phantom_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int | None]] = []
    propose = Own._propose

    def noted(self: Own, case: Case, look: Glimpse, *, only: int | None = None) -> list[str]:
        asked.append((fold_of(case, len(self.model.vision.glance.members)), only))
        return propose(self, case, look, only=only)

    monkeypatch.setattr(Own, "_propose", noted)
    own(home, mixed_rows(phantom_rows, tmp_path))
    assert asked and all(fold == only for fold, only in asked)


def test_the_best_pass_is_kept_and_no_better_one_ends_it(
    home: Path, phantom_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, saved = iter([0.2, 0.6, 0.5, 0.6, 0.1, 0.9]), []
    monkeypatch.setattr(Own, "evaluate", lambda self: {"score": next(scores)})
    monkeypatch.setattr(Own, "save", lambda self, folder: saved.append(self.batches.epoch))
    recipe = own_recipe(str(phantom_rows), check(phantom_rows), task="vqa", adapter="parent", minutes=0)
    log = train(recipe, output=tmp_path / "run") / "log.jsonl"
    assert [json.loads(line)["score"] for line in log.read_text().splitlines()] == [0.2, 0.6, 0.5, 0.6, 0.1]
    assert saved == [0, 1]


def test_checkpointing_changes_nothing_but_memory(home: Path, phantom_rows: Path) -> None:
    losses = []
    for checkpointing in (False, True):
        objective = own(home, phantom_rows, checkpointing=checkpointing).train()
        batch = objective.collate(next(iter(objective.batches)))
        torch.manual_seed(0)  # of the dropout
        loss = objective(batch)["loss"]
        loss.backward()
        gradient = next(p.grad for n, p in objective.named_parameters() if "lora_B" in n)
        losses.append((float(loss), float(gradient.norm())))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
