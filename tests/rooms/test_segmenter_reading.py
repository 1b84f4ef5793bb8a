"""How a segmenter reads a scan, mirrored too, and tidies what it finds, as its folder says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import medfm
from medfm.errors import ConfigError
from medfm.scan import Scan
from medfm.segmenter import Segmenter, join, keep_largest, load_segmenter, meeting, part_at_slice


def small(seed: int = 0, **more: Any) -> Segmenter:
    torch.manual_seed(seed)
    settings: dict[str, Any] = {"encoder": {"name": "conv", "ndim": 3, "channels": [4, 8]}, "head": {}}
    return Segmenter(**settings, labels=["a", "b"], prepare={"intensity": "zscore"}, patch=[16, 16, 16], **more).eval()


def test_mirrored_tiles_are_mirrored_back(tmp_path: Path) -> None:
    model = small(flips="W", mirrored=True)
    values = np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32)
    scan, turned = (Scan.from_array(v, affine=np.eye(4)) for v in (values, values[:, :, ::-1].copy()))
    grid, mirrored = model.preparation(scan), model.preparation(turned)
    one, other = (model.label(g, flip=True) for g in (grid, mirrored))
    np.testing.assert_array_equal(one, other[:, :, ::-1])
    model.save(tmp_path)
    again = load_segmenter(tmp_path)
    told = medfm.segment(again, scan, flip=True).array
    np.testing.assert_array_equal(medfm.segment(again, scan).array, told, "its folder says that it reads so")
    assert (medfm.segment(again, scan, flip=False).array != told).any()


def test_the_largest_part_is_kept() -> None:
    labels = np.zeros((4, 6, 6), np.uint8)
    labels[1, 0:2, 0:2], labels[2, 4, 4], labels[3, 0, 5] = 1, 1, 2
    kept = keep_largest(labels, [1])
    assert (kept == 1).sum() == 4 and kept[2, 4, 4] == 0 and kept[3, 0, 5] == 2


def test_two_labels_meet_at_the_slice_that_parts_them_best() -> None:
    labels = np.zeros((4, 10, 6), np.uint8)
    labels[1:3, 1:5, 2:4], labels[1:3, 5:9, 2:4], labels[0, 0, 0] = 2, 1, 3
    ragged = labels.copy()
    ragged[1, 5, 2], ragged[2, 4, 3] = 2, 1
    assert meeting(ragged, 2, 1) == 5
    np.testing.assert_array_equal(part_at_slice(ragged, 2, 1), labels)
    np.testing.assert_array_equal(part_at_slice(labels, 2, 1), labels)
    only = np.where(labels == 1, 1, 0).astype(np.uint8)
    np.testing.assert_array_equal(part_at_slice(only, 2, 1), only)


def test_what_a_folder_says_of_two_labels_holds_in_patient_space(tmp_path: Path) -> None:
    """Behind is where the body's back is, whatever order the file has."""
    model = small(meet=["a", "b"])
    bias = model.get_parameter("head.logits.0.bias")
    bias.data = torch.tensor([-100.0, 0.0, 0.0])  # no background: both labels are everywhere
    model.save(tmp_path)
    model = load_segmenter(tmp_path)
    values = np.random.default_rng(0).normal(size=(16, 18, 16)).astype(np.float32)
    for turned in (np.diag([1.0, 1.0, 1.0, 1.0]), np.diag([-1.0, -1.0, 1.0, 1.0])):
        mask = medfm.segment(model, Scan.from_array(values, affine=turned))
        behind, front = (np.argwhere(mask.array == value)[:, ::-1] for value in (1, 2))
        assert len(behind) and len(front)
        y = [(mask.affine @ np.c_[places, np.ones(len(places))].T)[1] for places in (behind, front)]
        assert y[0].max() < y[1].min()


def test_several_models_become_one_that_means_them_and_claims_nobody_whom_one_of_them_saw(tmp_path: Path) -> None:
    held = (["ann", "bob"], ["bob", "cem"], ["bob"])
    for number, names in enumerate(held):
        small(number, about={"held out": names}).save(tmp_path / f"run{number}")
    runs = [tmp_path / f"run{number}" for number in range(3)]
    join(runs, tmp_path / "mean")
    model = load_segmenter(tmp_path / "mean")
    assert model.about["held out"] == ["bob"] and len(model.others) == 2
    values = np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32)
    grid = model.preparation(Scan.from_array(values, affine=np.eye(4)))
    mean = torch.stack([load_segmenter(run).probabilities(grid) for run in runs]).mean(0)
    np.testing.assert_array_equal(model.label(grid), mean.argmax(0))
    small(meet=["b", "a"]).save(tmp_path / "again" / "run1")
    with pytest.raises(ConfigError, match="other names"):
        join([*runs, tmp_path / "again" / "run1"], tmp_path / "other")
    with pytest.raises(ConfigError, match="each of one network"):
        join([*runs, tmp_path / "mean"], tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("setting", ["largest", "meet"])
def test_a_name_that_is_no_label_is_named(setting: str) -> None:
    with pytest.raises(ConfigError, match="liver"):
        small(**{setting: ["a", "liver"]})
