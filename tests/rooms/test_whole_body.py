"""The whole body: TotalSegmentator (a stub of it) behind our verb, and our recipe of it on made-up bodies."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from medfm import assets
from medfm.cli import app
from medfm.config import load_recipe
from medfm.data.volumes import find_pairs, read_labels
from medfm.errors import DataError, ScanError, WeightsError
from medfm.evaluate.segment import evaluate_segment
from medfm.predict.segmenting import cut_off
from medfm.predict.whole_body import outline_whole_body
from medfm.scan import Mask, Scan
from medfm.segmenter import load_segmenter
from medfm.train.loop import train

STUB = {
    "__init__": "",
    "config": """
import os
SET = {}
def setup_totalseg(): SET.setdefault("send_usage_stats", True)
def set_config_key(key, value): SET[key] = value
def get_weights_dir(): return os.environ["TOTALSEG_WEIGHTS_PATH"]
""",
    "map_to_binary": 'class_map = {"total": {1: "spleen", 5: "liver", 90: "brain"}, "total_mr": {1: "spleen"}}',
    "python_api": """
import nibabel, numpy as np
from totalsegmentator.config import SET
def download_pretrained_weights(task): raise AssertionError("the network was used")
def totalsegmentator(image, output, *, ml, task, fast, device, quiet):
    assert ml and not SET["send_usage_stats"]
    print("Using Device:", device)
    for number in [297] if fast else [291, 292, 293, 294, 295]:
        download_pretrained_weights(number)
    read = nibabel.load(image)
    values = np.asarray(read.dataobj)
    nibabel.save(nibabel.Nifti1Image((values > 50) * np.uint8(5) + (values == -800) * np.uint8(1), read.affine), output)
""",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stub on the path, and the folder where its weights would lie."""
    (tmp_path / "stub" / "totalsegmentator").mkdir(parents=True)
    for name, text in STUB.items():
        (tmp_path / "stub" / "totalsegmentator" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "stub")
    for name in [n for n in sys.modules if n.split(".")[0] == "totalsegmentator"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(tmp_path / "weights"))
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def body() -> Scan:
    """A bright block inside, a dark one at the first slices."""
    values = np.zeros((12, 16, 20), np.int16)
    values[:, :2] = -1000  # air, by which a NIfTI is known as CT
    values[5:8, 4:9, 6:16] = 120
    values[:3, 2:6, 2:6] = -800
    return Scan.from_array(values, affine=np.diag([1.5, 2.0, 3.0, 1.0]), modality="CT", units="HU")


def test_the_mask_lies_where_the_scan_lies(package: Path) -> None:
    (package / "Dataset297_TotalSegmentator").mkdir()
    scan = body()
    mask = outline_whole_body(scan)
    np.testing.assert_array_equal(mask.array == 5, scan.data[0] == 120)
    np.testing.assert_allclose(mask.affine, scan.affine)
    assert mask.labels == {1: "spleen", 5: "liver", 90: "brain"}


def test_without_weights_nothing_is_fetched_and_the_folder_is_named(package: Path) -> None:
    with pytest.raises(WeightsError, match=r"no Dataset297_\.\.\. in .*weights"):
        outline_whole_body(body())


def test_the_command_tells_what_is_missing_and_what_is_cut(package: Path, tmp_path: Path) -> None:
    (package / "Dataset297_TotalSegmentator").mkdir()
    scan = Path(tmp_path, "scan.nii.gz")
    body().write(scan)
    asked = ["segment", str(scan), "--task", "totalsegmentator", "--output", str(tmp_path / "mask.nii.gz"), "--json"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["ml"]["liver"] == pytest.approx(150 * 9 / 1000)
    assert told["not_found"] == ["brain"] and told["cut_by_border"] == ["spleen"]


def test_what_it_was_not_made_for_is_refused(package: Path) -> None:
    with pytest.raises(ScanError, match="takes volumes of CT in HU"):
        outline_whole_body(Scan.from_array(np.zeros((4, 8, 8), np.uint8), spacing=1.0))


def test_a_picture_has_no_border_that_cuts() -> None:
    labels = np.ones((1, 4, 4), np.uint8)
    assert cut_off(Mask(labels, np.eye(4), {1: "vessel"})) == []
    assert cut_off(Mask(np.pad(labels, ((1, 1), (1, 1), (1, 1))), np.eye(4), {1: "vessel"})) == []
    assert cut_off(Mask(np.pad(labels, ((1, 0), (1, 1), (1, 1))), np.eye(4), {1: "vessel"})) == ["vessel"]


def test_made_up_bodies_hold_every_structure_each_in_its_place(tmp_path: Path) -> None:
    bodies = runpy.run_path(str(assets.root() / "tasks" / "segmentation" / "bodies.py"))
    bodies["write_bodies"](tmp_path, count=2)
    found = find_pairs(tmp_path)
    assert len(found.pairs) == 2 and len(found.labels) == 104 and found.channel == "CT"
    one, other = (read_labels(pair, found.labels)[1] for pair in found.pairs)
    assert len(np.unique(one)) == len(np.unique(other)) == 105 and (one != other).any()
    (labels, around), _ = bodies["first_body"](torch.Generator().manual_seed(0))
    assert (around[labels > 0] == 1).all()
    for axis in range(3):
        a, b = labels.narrow(axis, 1, 47), labels.narrow(axis, 0, 47)
        assert not ((a != b) & (a > 0) & (b > 0)).any()


def test_the_one_person_who_is_on_both_sides_is_not_held_out(tmp_path: Path) -> None:
    body().write(tmp_path / "ct.nii.gz")
    Scan.from_array(np.uint8(body().data[0] == 120) * 5, affine=body().affine).write(tmp_path / "labels.nii.gz")
    row = {"image": str(tmp_path / "ct.nii.gz"), "label": str(tmp_path / "labels.nii.gz"), "patient": "one"}
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps(row))
    small = [
        f"data.train='{rows}'", f"data.validate='{rows}'", "train.epochs=1", "objective.repeats=1", "train.budget=0",
        "objective.model.encoder.channels=[4, 8]", "objective.model.head.deep=0", "objective.patch=[16, 16, 16]",
    ]  # fmt: skip
    model = load_segmenter(train(load_recipe("segmentation/totalsegmentator", small), output=tmp_path / "run"))
    assert model.about["trained on"] == 1 and model.about["held out"] == []
    with pytest.raises(DataError, match="none of the 1 scans is of a patient held out"):
        evaluate_segment(model, rows, output=tmp_path / "figures", held_out=True, labels={5: "liver"})


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_recipe_tells_104_structures_apart(tmp_path: Path) -> None:
    bodies = runpy.run_path(str(assets.root() / "tasks" / "segmentation" / "bodies.py"))
    bodies["write_bodies"](tmp_path / "bodies", count=40)
    changes = bodies["CHANGES"]
    folder = train(
        load_recipe("segmentation/totalsegmentator", [f"data.train='{tmp_path / 'bodies'}'", *changes]),
        output=tmp_path / "run",
    )
    figures = evaluate_segment(load_segmenter(folder), tmp_path / "bodies", output=tmp_path / "figures", held_out=True)
    assert figures["overall"]["value"] >= 0.85
    assert not any(figures["missed"].values())
    rows = map(json.loads, (tmp_path / "figures" / "cases.jsonl").read_text().splitlines())
    both = [(c["volume_ml"], c["true_volume_ml"]) for row in rows for c in row["classes"].values()]
    assert np.mean([abs(found - true) / true for found, true in both if true]) <= 0.10
