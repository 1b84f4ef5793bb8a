"""Predictions of another program are measured as a model's are, on the same data."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medfm.cli import main
from medfm.data.boxes import find_boxes
from medfm.data.labels import find_labels
from medfm.data.toy import boxed_pictures, labelled_pictures
from medfm.errors import DataError
from medfm.evaluate.predictions import (
    evaluate_predicted_boxes,
    evaluate_predicted_labels,
    evaluate_predicted_pictures,
)
from medfm.scan import Scan

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return boxed_pictures(tmp_path_factory.mktemp("boxes"))


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled_pictures(tmp_path_factory.mktemp("labels"))


@pytest.fixture
def lines(tmp_path: Path) -> Callable[[Rows], Path]:
    def write(rows: Rows) -> Path:
        file = tmp_path / "found.jsonl"
        file.write_text("\n".join(map(json.dumps, rows)))
        return file

    return write


def drawn(data: Path) -> Rows:
    """What is drawn, as a perfect detector would find it."""
    return [{"case": s.name, "boxes": [{**b.to_dict(), "score": 0.9} for b in s.boxes]} for s in find_boxes(data).scans]


def test_what_is_drawn_is_a_perfect_detector(boxes: Path, lines: Callable[[Rows], Path], tmp_path: Path) -> None:
    metrics = evaluate_predicted_boxes(lines(drawn(boxes)), boxes, output=tmp_path, resamples=20)
    assert metrics["ap50"]["value"] == metrics["ap"]["value"] == 1.0
    again = evaluate_predicted_boxes(tmp_path / "cases.jsonl", boxes, output=tmp_path / "again", resamples=20)
    assert again["ap"] == metrics["ap"] and again["data"]["cases without a line"] == 0


def test_boxes_missed_and_made_up_count(boxes: Path, lines: Callable[[Rows], Path], tmp_path: Path) -> None:
    rows = drawn(boxes)
    missed = evaluate_predicted_boxes(lines(rows[: len(rows) // 2]), boxes, output=tmp_path, resamples=20)
    assert 0.3 < missed["ap50"]["value"] < 0.7 and missed["data"]["cases without a line"] == len(rows) - len(rows) // 2
    for row in rows:
        row["boxes"] += [{"label": name, "xywh": [0, 0, 3, 3], "score": 0.99} for name in ("square", "bar")]
    assert evaluate_predicted_boxes(lines(rows), boxes, output=tmp_path, resamples=20)["ap50"]["value"] < 0.8


def test_what_is_no_prediction_is_told(boxes: Path, lines: Callable[[Rows], Path], tmp_path: Path) -> None:
    rows = drawn(boxes)
    for wrong, said in (
        ([{**rows[0], "case": "nobody"}], "'nobody' is no case of the data; they are called"),
        ([rows[0], rows[0]], "two rows are of the case"),
        ([{"boxes": []}], "expected a `case`"),
        ([{"case": rows[0]["case"], "boxes": [{"label": "square", "xywh": [0, 0, 3, 3]}]}], "label, score and low"),
    ):
        with pytest.raises(DataError, match=said):
            evaluate_predicted_boxes(lines(wrong), boxes, output=tmp_path)


def test_probabilities_in_a_table(labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                  capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    found, file = find_labels(labels), tmp_path / "p.csv"

    def write(scans: list[Any]) -> None:
        with file.open("w", newline="") as opened:
            table = csv.writer(opened)
            table.writerow(["case", *found.labels])
            for s in scans:
                table.writerow([Path(s.name).stem, *(0.8 if s.label == name else 0.2 for name in found.labels)])

    write(found.scans)
    command = ["medfm", "evaluate", "classify", str(labels), "--prediction", str(file), "-o", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code, capsys.readouterr().err
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["auc"]["value"] == metrics["balanced_accuracy"]["value"] == 1.0
    again = evaluate_predicted_labels(tmp_path / "out" / "cases.jsonl", labels, output=tmp_path / "again")
    assert again["auc"] == metrics["auc"]
    write(found.scans[1:])
    with pytest.raises(DataError, match="says nothing of 1 of"):
        evaluate_predicted_labels(file, labels, output=tmp_path / "again")


def test_a_model_or_predictions_and_not_both(
    boxes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["medfm", "evaluate", "detect", str(boxes), "-o", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2 and "--prediction" in capsys.readouterr().err


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., Path]:
    """A brick in air in HU, bone in it, 12 slices of which the lowest are empty, noisy by so many HU, as a file."""

    def write(name: str, *, noise: float = 0.0, slices: int = 12) -> Path:
        values = np.full((1, slices, 32, 32), -1000.0, np.float32)
        values[:, 2:, 8:24, 8:24] = 40
        values[:, 2:, 15:17, 15:17] = 300  # without bone it is no CT
        values += noise * np.random.default_rng(0).normal(size=values.shape)
        file = tmp_path / name / "body.nii.gz"
        file.parent.mkdir(exist_ok=True)
        Scan.from_array(values.astype(np.float32), affine=np.eye(4), modality="CT", units="HU").write(file)
        return file

    return write


def test_pictures_of_another_program_are_measured_against_the_truth(
    pictures: Callable[..., Path], tmp_path: Path
) -> None:
    truth, noisy = pictures("truth"), pictures("noisy", noise=50.0)
    same = evaluate_predicted_pictures(truth.parent, [truth], output=tmp_path / "out", resamples=20)
    assert same["psnr"]["value"] > 100 and same["ssim"]["value"] == pytest.approx(1.0)
    assert same["data"]["cases"] == 10  # air is no case
    worse = evaluate_predicted_pictures(noisy, [truth], output=tmp_path / "out", resamples=20)
    inside = (32 * 32 - 0.5 * 3 * 16 * 16) / 32**2  # of the noise in air, half is below -1000 HU and is not counted
    assert worse["psnr"]["value"] == pytest.approx(-20 * math.log10(50 / 2000 * inside**0.5), abs=0.6)
    assert len((tmp_path / "out" / "cases.jsonl").read_text().splitlines()) == 10


def test_a_picture_on_other_voxels_or_none_is_told(pictures: Callable[..., Path], tmp_path: Path) -> None:
    truth = pictures("truth")
    with pytest.raises(DataError, match="expected a prediction on the voxels of its truth"):
        evaluate_predicted_pictures(pictures("short", slices=8), [truth], output=tmp_path / "out")
    with pytest.raises(DataError, match="holds no body"):
        evaluate_predicted_pictures(tmp_path, [truth], output=tmp_path / "out")


def test_the_command_takes_pictures_or_a_model(
    pictures: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = str(pictures("truth"))
    words = ["medfm", "evaluate", "reconstruct", truth, "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", [*words, "--prediction", truth])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["psnr"]["n"] == 10
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code
