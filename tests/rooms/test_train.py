"""The one loop: deterministic by seed, killed and resumed to the same numbers, never over another run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_recipes import adapter_recipe, eye_recipe, glance_recipe

from medfm.config import build
from medfm.data.batches import loader
from medfm.data.questions import read_cases, split_cases, structure_target
from medfm.errors import ConfigError, DataError
from medfm.objectives.grounded import Grounded
from medfm.prepare import Prepare
from medfm.scan import Scan
from medfm.train.loop import train

Parts = dict[str, torch.Tensor]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "vision.safetensors")


def test_same_seed_same_weights(eye_folder: Path, phantom_rows: Path, tiny_language: Path, tmp_path: Path) -> None:
    again = weights(train(eye_recipe(phantom_rows, tiny_language), output=tmp_path / "again"))
    for name, tensor in weights(eye_folder).items():
        torch.testing.assert_close(again[name], tensor, msg=name)


def test_killed_and_resumed_equals_uninterrupted(
    phantom_rows: Path, tiny_language: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = eye_recipe(phantom_rows, tiny_language, epochs=2, minutes=0, average=0.9)
    whole = weights(train(recipe, output=tmp_path / "whole"))
    forward, calls = Grounded.forward, []

    def dies(self: Grounded, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return forward(self, batch)

    monkeypatch.setattr(Grounded, "forward", dies)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, output=tmp_path / "killed")
    monkeypatch.setattr(Grounded, "forward", forward)
    resumed = weights(train(recipe, output=tmp_path / "killed", resume=True))
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name].float(), tensor.float(), atol=2e-3, rtol=2e-3, msg=name)
    assert [json.loads(line)["epoch"] for line in (tmp_path / "killed" / "log.jsonl").read_text().splitlines()] == [
        1,
        2,
    ]


def answering(monkeypatch: pytest.MonkeyPatch, change: Callable[[int, Parts], Parts]) -> list[int]:
    """Let `Grounded` give what `change` makes of its step, counted from 1, and parts; the list fills with the steps."""
    forward, steps = Grounded.forward, []

    def changed(self: Grounded, batch: Parts) -> Parts:
        steps.append(len(steps) + 1)
        return change(steps[-1], forward(self, batch))

    monkeypatch.setattr(Grounded, "forward", changed)
    return steps


def test_a_gradient_that_is_not_finite_is_not_followed(
    phantom_rows: Path, tiny_language: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(step: int, parts: Parts) -> Parts:
        return parts if step % 2 else {**parts, "loss": parts["loss"] * torch.nan}

    calls = answering(monkeypatch, spoiled)
    run = train(eye_recipe(phantom_rows, tiny_language), output=tmp_path / "run")
    assert len(calls) > 1 and all(t.isfinite().all() for t in weights(run).values())


def test_the_best_of_negative_scores_is_kept(
    phantom_rows: Path, tiny_language: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Grounded, "evaluate", lambda self: {"score": -3.0})
    assert weights(train(eye_recipe(phantom_rows, tiny_language, best=True), output=tmp_path / "run"))


def test_a_run_whose_gradients_stay_infinite_ends_with_what_to_do(
    phantom_rows: Path, tiny_language: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, lambda _, parts: {**parts, "loss": parts["loss"] * torch.inf})
    with pytest.raises(ConfigError, match=r"not finite in 10 steps in a row.*Lower train\.rate \(found 0\.001\)"):
        train(eye_recipe(phantom_rows, tiny_language, epochs=20), output=tmp_path / "run")


def test_what_some_batches_lack_is_the_mean_of_the_others(
    phantom_rows: Path, tiny_language: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(step: int, parts: Parts) -> Parts:
        there = torch.tensor(0.5 if step % 2 else torch.nan)
        return {**parts, "dice": there, "nowhere": torch.tensor(torch.nan)}

    calls = answering(monkeypatch, told)
    log = train(eye_recipe(phantom_rows, tiny_language), output=tmp_path / "run") / "log.jsonl"
    entry = json.loads(log.read_text(), parse_constant=pytest.fail)  # NaN is no JSON
    assert len(calls) > 1 and entry["dice"] == 0.5 and entry["nowhere"] is None


def test_another_run_is_not_overwritten(eye_folder: Path, phantom_rows: Path, tiny_language: Path) -> None:
    with pytest.raises(ConfigError, match="--resume"):
        train(eye_recipe(phantom_rows, tiny_language), output=eye_folder)


def test_unknown_training_option_is_named(phantom_rows: Path, tiny_language: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="epoks"):
        train(eye_recipe(phantom_rows, tiny_language, epoks=3), output=tmp_path / "x")


def test_the_eye_learns_the_phantom(phantom_rows: Path, tiny_language: Path, tmp_path: Path) -> None:
    log = train(eye_recipe(phantom_rows, tiny_language, epochs=8, rate=3e-3), output=tmp_path / "run") / "log.jsonl"
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert entries[-1]["maps"] < 0.5 * entries[0]["maps"]
    assert entries[-1]["answer"] < entries[0]["answer"]


def test_a_frozen_eye_stays_as_it_was(glance_folder: Path, adapter_folder: Path) -> None:
    before, after = weights(glance_folder), weights(adapter_folder)
    changed = {".".join(n.split(".")[:2]) for n in before if not torch.equal(before[n], after[n])}
    assert changed == {"connector.patch", "connector.note", "connector.norm", "connector.gain"}


def test_other_answers_cost_nothing_that_was_learned_of_the_known_ones(
    glance_folder: Path, phantom_rows: Path, tiny_language: Path, tmp_path: Path
) -> None:
    new = {"image": "scan0.png", "question": "What is the noise?", "answer": "A cough"}
    image = json.loads(phantom_rows.read_text().splitlines()[0])["image"]
    more = phantom_rows.with_name("more.jsonl")
    more.write_text(phantom_rows.read_text() + 2 * (json.dumps({**new, "image": image}) + "\n"))
    chosen: list[torch.Tensor] = []
    for rows in (phantom_rows, more):
        recipe = glance_recipe(glance_folder, rows, tiny_language)
        objective = build("objectives", recipe["objective"], data=recipe["data"], seed=0).eval()
        known = objective.vision.answers
        batch = {**objective.choosing.batch(objective.cases[:1]), "plain": objective.collate([0])["plain"]}
        member = objective.glance.members[0]
        chosen.append(objective.choosing.chosen(member, member.remember(batch["plain"]), batch)[0])
    assert "A cough" in known and known.index("A cough") < len(known) - 1  # sorted: the others moved on
    old = [n for n, answer in enumerate(known) if answer != "A cough"]
    torch.testing.assert_close(chosen[1][old], chosen[0], rtol=1e-4, atol=1e-5)


def test_a_long_question_changes_nothing_for_the_others(
    eye_folder: Path, phantom_rows: Path, tiny_language: Path
) -> None:
    recipe = glance_recipe(eye_folder, phantom_rows, tiny_language)
    objective = build("objectives", recipe["objective"], data=recipe["data"], seed=0)
    objective.eval()
    batch = objective.collate([0, 1])
    memory = objective.glance.remember(batch["plain"])
    alone = objective.choosing.chosen(objective.glance, memory, batch)
    longer = batch["asked"].roll(1, 1).repeat(1, 4)[:1]  # a row four times as long, behind the others
    asked = torch.nn.functional.pad(batch["asked"], (0, longer.shape[1] - batch["asked"].shape[1]), value=-1)
    more = {"asked": torch.cat([asked, longer]), "row": torch.cat([batch["row"], torch.tensor([0])])}
    together = objective.choosing.chosen(objective.glance, memory, more)[:-1]
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_split_is_by_image_and_repeatable(phantom_rows: Path) -> None:
    cases = read_cases([phantom_rows], Prepare(size=64))
    train_side, held = split_cases(cases, share=0.25, seed=3)
    assert len(held) == 3 and not {c.path for c in train_side} & {c.path for c in held}
    assert [c.path for c in split_cases(cases, share=0.25, seed=3)[1]] == [c.path for c in held]


def test_target_lies_where_mask_and_box_lie(phantom_rows: Path) -> None:
    case = read_cases([phantom_rows], Prepare(size=64))[0]
    from_mask, present = structure_target(case, ["Disk", "Other"], {70: "Disk"})
    case.mask = None
    from_box, _ = structure_target(case, ["Disk", "Other"], {})
    assert present.tolist() == [1, 0] and from_mask[1].max() == 0
    overlap = (from_mask[0] * from_box[0]).sum() * 2 / (from_mask[0].sum() + from_box[0].sum())
    assert overlap > 0.8


@pytest.mark.parametrize("line", ["{not json", '{"image": "a.png", "question": "?"}', "[1, 2]"])
def test_a_bad_row_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(DataError, match="line 1"):
        read_cases([file], Prepare(size=64))


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(DataError, match="no rows"):
        read_cases([tmp_path / "rows.jsonl"], Prepare(size=64))


def test_adapter_recipe_trains_only_adapter_and_connector(adapter_folder: Path) -> None:
    names = load_file(adapter_folder / "adapter_model.safetensors")
    assert names and all("lora_" in n for n in names)
    assert any(t.abs().sum() > 0 for n, t in names.items() if "lora_B" in n)


def test_volumes_are_trained_whole_and_apart_from_pictures(
    eye_folder: Path, phantom_rows: Path, tiny_language: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in phantom_rows.read_text().splitlines()]
    for number in range(4):
        values = np.random.default_rng(number).integers(-900, 900, (5 + number, 40, 40)).astype(np.int16)
        volume = Scan.from_array(values, affine=np.diag([2, 2, 5, 1]), modality="CT", units="HU")
        volume.write(tmp_path / f"volume{number}.nii.gz")
        rows.append({"image": f"volume{number}.nii.gz", "question": "Is it noise?", "answer": "Yes"})
    for row in rows[:-4]:
        row["image"] = str(phantom_rows.parent / row["image"])
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    recipe = adapter_recipe(eye_folder, file, tiny_language)
    objective = build("objectives", recipe["objective"], data={"train": [str(file)], "validate": [str(file)]}, seed=0)
    kinds = [{objective.cases[i].prepared.x.shape[1] > 1 for i in indices} for indices in objective.batches]
    assert all(len(kind) == 1 for kind in kinds) and {True} in kinds
    depths = set()
    for batch in loader(objective.batches, objective.collate):
        depths.add(batch["patches"].shape[1])
        assert objective(batch)["loss"].isfinite()
    assert max(depths) == 4  # the connector's groups of slices, from the whole volume


def test_a_saved_hugging_face_data_set_reads_like_its_json_lines(phantom_rows: Path) -> None:
    from datasets import Dataset

    rows = [json.loads(line) for line in phantom_rows.read_text().splitlines()]
    saved = phantom_rows.parent / "saved"
    Dataset.from_list(rows).save_to_disk(str(saved))
    plain, arrow = (read_cases([source], Prepare(size=64)) for source in (phantom_rows, saved))
    assert [(c.path, c.questions, c.answers, c.facts) for c in plain] == [
        (c.path, c.questions, c.answers, c.facts) for c in arrow
    ]


def test_a_folder_that_is_no_data_set_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="save_to_disk"):
        read_cases([tmp_path], Prepare(size=64))


def test_fine_tuning_goes_on_from_a_trained_adapter(
    adapter_folder: Path, eye_folder: Path, phantom_rows: Path, tiny_language: Path
) -> None:
    recipe = adapter_recipe(eye_folder, phantom_rows, tiny_language)["objective"]
    model = {**recipe["model"], "vision": None, "adapter": str(adapter_folder)}  # type: ignore[index]
    objective = build(
        "objectives", {**recipe, "model": model}, data={"train": [str(phantom_rows)], "hold": 0.25}, seed=0
    )  # type: ignore[dict-item]
    trained = load_file(adapter_folder / "adapter_model.safetensors")
    parameters = {n.replace(".default", ""): p for n, p in objective.model.language.named_parameters()}
    assert all(parameters[n].requires_grad and torch.equal(parameters[n].half(), t) for n, t in trained.items())
    eye = objective.model.vision.state_dict()
    assert all(
        torch.equal(eye[n].half() if t.is_floating_point() else eye[n], t) for n, t in weights(adapter_folder).items()
    )
