"""`evaluate_vqa` on small real pictures: the figures by hand, every sample counted, an interrupted run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medfm.errors import DataError
from medfm.evaluate import evaluate_vqa
from medfm.evaluate.rows import Row, most_frequent_answers, read_rows
from medfm.evaluate.score import table
from medfm.evaluate.vqa import blank_like, model_hash
from medfm.scan import Scan

BRIGHT, MODALITY = "is the picture bright?", "what modality is this?"


def write(path: Path, rows: list[tuple[str, str, str, str]]) -> Path:
    keys = ("image", "question", "answer", "answer_type")
    lines = [
        json.dumps({**dict(zip(keys, row, strict=True)), "content_type": "Any", "qid": i}) for i, row in enumerate(rows)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def data(pictures: Path) -> Path:
    return write(
        pictures / "rows.jsonl",
        [
            ("bright.png", BRIGHT, "yes", "CLOSED"),
            ("dark.png", BRIGHT, "No.", "CLOSED"),
            ("bright.png", MODALITY, "MRI", "OPEN"),
            ("dark.png", MODALITY, "CT", "OPEN"),
            ("broken.png", BRIGHT, "yes", "CLOSED"),
        ],
    )


def test_figures_by_hand(data: Path, tmp_path: Path, fake_verbs: Any) -> None:
    metrics = evaluate_vqa(fake_verbs, data, output=tmp_path / "out")
    assert metrics == json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["overall"]["value"] == pytest.approx(3 / 5)
    assert metrics["closed"]["value"] == pytest.approx(2 / 3, abs=1e-6)
    assert metrics["open"]["value"] == pytest.approx(1 / 2)
    assert metrics["blank_image"]["value"] == pytest.approx(2 / 5)  # the brightness is gone, the modality guess is not
    assert metrics["gain_over_blank"]["value"] == pytest.approx(1 / 5)
    assert metrics["by"]["content_type"]["Any"]["n"] == 5
    for key in ("overall", "closed", "open", "token_f1", "blank_image", "most_frequent", "gain_over_blank"):
        assert {"value", "low", "high", "n"} <= set(metrics[key])
        assert metrics[key]["low"] <= metrics[key]["value"] <= metrics[key]["high"]
    assert "exact match" in str(table(metrics).columns[1].header)


def test_an_unreadable_image_counts_as_wrong_and_is_listed(data: Path, tmp_path: Path, fake_verbs: Any) -> None:
    metrics = evaluate_vqa(fake_verbs, data, output=tmp_path / "out")
    assert metrics["overall"]["n"] == 5
    assert list(metrics["unreadable"]["images"]) == ["broken.png"]
    records = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert [record["row"] for record in records] == list(range(5))
    assert records[4]["correct"] == 0.0
    assert records[4]["error"]
    assert records[0]["qid"] == 0  # extra keys are kept


def test_outputs_name_no_folder_of_this_machine(data: Path, tmp_path: Path, fake_verbs: Any) -> None:
    evaluate_vqa(fake_verbs, data, output=tmp_path / "out", baseline_data=data)
    for file in ("metrics.json", "predictions.jsonl"):
        assert str(tmp_path.parent) not in (tmp_path / "out" / file).read_text()


def test_each_image_is_encoded_once_and_blanks_of_one_shape_are_one(
    data: Path, tmp_path: Path, fake_verbs: Any
) -> None:
    evaluate_vqa(fake_verbs, data, output=tmp_path / "out")
    assert len(fake_verbs.encoded) == 3  # bright, the blank of its shape, dark (whose blank was known by then)
    assert len(fake_verbs.asked) == 4 + 2


def test_an_interrupted_run_goes_on(data: Path, tmp_path: Path, fake_verbs: Any) -> None:
    whole = evaluate_vqa(fake_verbs, data, output=tmp_path / "whole")
    output = tmp_path / "cut"
    output.mkdir()
    lines = (tmp_path / "whole" / "predictions.jsonl").read_text().splitlines(keepends=True)
    (output / "predictions.jsonl").write_text("".join(lines[:2]) + lines[2][:30])  # stopped in the middle of a line
    fake_verbs.asked.clear()
    assert evaluate_vqa(fake_verbs, data, output=output) == whole
    assert BRIGHT not in fake_verbs.asked


def test_another_model_starts_anew(data: Path, tmp_path: Path, fake_verbs: Any) -> None:
    evaluate_vqa(fake_verbs, data, output=tmp_path / "out")
    before = model_hash(fake_verbs)
    fake_verbs.weights["weight"] = fake_verbs.weights["weight"] + 1
    assert model_hash(fake_verbs) != before
    fake_verbs.asked.clear()
    evaluate_vqa(fake_verbs, data, output=tmp_path / "out")
    assert len(fake_verbs.asked) == 6


def test_limit_and_abstention(pictures: Path, tmp_path: Path, fake_verbs: Any) -> None:
    rows = [("dark.png", "is there a nodule?", "no", "CLOSED"), ("dark.png", MODALITY, "MRI", "OPEN")]
    data = write(pictures / "rows.jsonl", rows)
    metrics = evaluate_vqa(fake_verbs, data, output=tmp_path / "out")
    assert metrics["abstained"]["n"] == 1
    assert metrics["overall"]["value"] == 1.0  # the figure is of the answers; declining is reported beside it
    assert metrics["abstained"]["when_answered"]["n"] == 1
    limited = evaluate_vqa(fake_verbs, data, output=tmp_path / "limited", limit=1)
    assert limited["overall"]["n"] == 1
    assert limited["data"]["limit"] == 1


def row(number: int, image: str, question: str, answer: str, kind: str = "OPEN") -> Row:
    return Row(number, image, question, answer, kind)


def test_most_frequent_answer_never_looks_at_its_own_image() -> None:
    rows = [
        row(0, "a", "What organ?", "Liver"),
        row(1, "b", "what organ", "heart"),
        row(2, "c", "what organ?", "heart"),
    ]
    assert most_frequent_answers(rows, learned_on=None) == ["heart", "heart", "heart"]
    assert most_frequent_answers(rows[:2], learned_on=None) == ["heart", "liver"]
    assert most_frequent_answers(rows[:1], learned_on=None) == [""]


def test_most_frequent_answer_of_an_unknown_question_is_that_of_its_type() -> None:
    train = [row(0, "a", "q", "x"), row(1, "a", "r", "x"), row(2, "a", "s", "yes", "CLOSED")]
    unknown = [
        row(0, "z", "never asked", "?", "CLOSED"),
        row(1, "z", "never asked", "?", "OPEN"),
        row(2, "z", "?!", "?", ""),
    ]
    assert most_frequent_answers(unknown, learned_on=train) == ["yes", "x", "x"]


def test_blank_keeps_shape_and_place_and_is_air_in_ct() -> None:
    import numpy as np

    ct = Scan.from_array(
        np.full((3, 4, 5), 40, np.int16), affine=np.diag([1.0, 1.0, 2.0, 1.0]), modality="CT", units="HU"
    )
    blank = blank_like(ct)
    assert blank.data.shape == ct.data.shape
    assert set(np.unique(blank.data)) == {-1024}
    assert np.array_equal(blank.affine, ct.affine)
    assert blank.content_hash != ct.content_hash


@pytest.mark.parametrize("text", ["", "[1, 2]\n", '{"image": "a.png"}\n', "not json\n"])
def test_bad_data_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match="expected"):
        read_rows(path)
    with pytest.raises(DataError, match="no such file"):
        read_rows(tmp_path / "missing.jsonl")
