"""Planning: equal to nnunetv2's own planner on frozen data sets, and the properties that make it useful."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_recipes import labelled_volumes

from medfm.config import load_recipe
from medfm.data.planning import planned
from medfm.errors import DataError
from medfm.plan import Fingerprint, fingerprint, plan, recipe
from medfm.segmenter import load_segmenter
from medfm.train.loop import train

FROZEN = json.loads((Path(__file__).parents[1] / "fixtures" / "nnunetv2_plans.json").read_text())["datasets"]
SCHEMES = {"CTNormalization": "ct", "ZScoreNormalization": "zscore", "NoNormalization": "none"}


def data_of(name: str) -> Fingerprint:
    frozen = FROZEN[name]
    return Fingerprint(
        frozen["shapes"], frozen["spacings"], frozen["channels"], frozen["classes"], frozen["cases"],
        frozen["relative_size"],
    )  # fmt: skip


def lists(value: Any) -> Any:
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("name", FROZEN)
def test_equals_nnunetv2(name: str) -> None:
    frozen, ours = FROZEN[name], plan(data_of(name))
    assert list(ours.axes) == frozen["transpose"]
    assert set(ours.configurations) == set(frozen["plans"])
    for key, theirs in frozen["plans"].items():
        found = ours.configurations[key]
        np.testing.assert_allclose(found.spacing, theirs["spacing"], rtol=1e-6)
        np.testing.assert_allclose(found.size, theirs["median_image_size_in_voxels"], atol=0.51)
        assert list(found.patch) == theirs["patch_size"], key
        assert found.batch == theirs["batch_size"], key
        assert lists(found.strides) == theirs["strides"], key
        assert lists(found.kernels) == theirs["kernel_sizes"], key
        assert list(found.channels) == theirs["features_per_stage"], key
        assert list(found.normalise) == [SCHEMES[s] for s in theirs["normalization_schemes"]]
        assert list(found.masked) == theirs["use_mask_for_norm"]


@pytest.mark.parametrize("name", FROZEN)
def test_a_patch_is_whole_strides_and_fits_the_memory(name: str) -> None:
    for key, found in plan(data_of(name), memory=6).configurations.items():
        total = np.prod(found.strides, 0)
        assert not (np.array(found.patch) % total).any()
        assert found.activations <= (85e6 * 6 if key == "2d" else 560e6) * 6 / 8  # a batch of two


def test_less_memory_means_no_larger_patch() -> None:
    sizes = [np.prod(plan(data_of("liver_ct"), memory=m).configurations["3d_fullres"].patch) for m in (4, 8, 16, 32)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


def test_order_of_stored_axes_does_not_matter() -> None:
    data = data_of("prostate")
    turned = Fingerprint(
        [s[::-1] for s in data.shapes], [s[::-1] for s in data.spacings], data.channels, data.classes, data.cases
    )
    a, b = plan(data).configurations["3d_fullres"], plan(turned).configurations["3d_fullres"]
    assert (a.strides, a.kernels, a.patch[0], sorted(a.patch)) == (b.strides, b.kernels, b.patch[0], sorted(b.patch))


def test_fingerprint_cuts_the_empty_border_and_tells_the_foreground() -> None:
    image, labels = np.zeros((1, 12, 20, 24), np.float32), np.zeros((12, 20, 24), np.uint8)
    image[0, 2:10, 5:15, 4:20] = 100
    image[0, 4:6, 8:10, 8:10], labels[4:6, 8:10, 8:10] = 300, 1
    found = fingerprint([(image, labels, (3.0, 1.0, 1.0))], channels=["MRI"], classes=2)
    assert found.shapes == [(8, 10, 16)] and found.spacings == [(3.0, 1.0, 1.0)]
    assert found.kept == pytest.approx(8 * 10 * 16 / labels.size)
    assert found.intensities[0]["mean"] == found.intensities[0]["percentile_99_5"] == 300
    assert plan(found).configurations["3d_fullres"].masked == (True,)


def test_bad_fingerprints_are_refused() -> None:
    with pytest.raises(DataError, match="expected one of each"):
        Fingerprint([], [], ["MRI"], 2)
    with pytest.raises(DataError, match="expected the same"):
        fingerprint([(np.ones((1, 4, 4, 4)), np.ones((4, 4, 5)), (1, 1, 1))], channels=["MRI"], classes=2)


@pytest.mark.parametrize("name", FROZEN)
def test_a_plan_is_a_recipe_with_axes_as_stored(name: str) -> None:
    data = data_of(name)
    told = dict.fromkeys(("mean", "std", "percentile_00_5", "percentile_99_5"), 1.0)
    data = replace(data, intensities=[told] * len(data.channels))
    found = plan(data)
    key = "3d_fullres" if "3d_fullres" in found.configurations else "2d"
    chosen, node = found.configurations[key], recipe(found, data, configuration=key, sides=True)
    encoder, ndim = node["model"]["encoder"], len(chosen.patch)
    axes = found.axes[-ndim:]
    assert [node["patch"][axis] for axis in axes] == list(chosen.patch)
    assert [[stride[axis] for axis in axes] for stride in encoder["strides"]] == lists(chosen.strides)
    assert [node["prepare"]["spacing"][axis] for axis in axes] == pytest.approx(chosen.spacing)
    assert node["model"]["head"]["kernels"] == encoder["kernels"][:-1] and "W" not in node["flips"]
    with pytest.raises(DataError, match="it has"):
        recipe(found, data, configuration="4d")


def test_the_planned_recipe_trains(tmp_path: Path) -> None:
    balls = labelled_volumes(tmp_path / "balls")
    file = tmp_path / "plan.yaml"
    found = planned(balls, memory=0.2)
    file.write_text(found.text)
    assert "3d_fullres" in found.summary and found.text.startswith("# ")
    small = ["data.hold=0.34", "objective.model.encoder.channels=[4, 4, 4]", "objective.batch=1", "train.epochs=1"]
    run = train(load_recipe(file, small), output=tmp_path / "run")
    assert load_segmenter(run).labels == ["ball", "core"]
