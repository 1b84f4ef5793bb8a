"""A site's part of federated averaging, and Flower's around it where it is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import nibabel
import numpy as np
import pytest
from safetensors.numpy import load_file
from small_recipes import SMALL as SMALL_OF
from small_recipes import Made, labelled_volumes

from medfm import assets
from medfm.config import load_recipe
from medfm.errors import AdapterMismatch, ConfigError
from medfm.train.federated import Site, _sent

SMALL = [
    "data.hold=0.34", "objective.patch=[1, 24, 24]", "objective.batch=2", "objective.repeats=2", "objective.largest=[]",
    "objective.model.encoder.channels=[4, 8, 8]", "objective.model.encoder.convs=1", "train.epochs=1",
    "objective.model.head={ndim: 2, convs: 1, deep: 1, norm: batch}",
]  # fmt: skip
BALLS = "data.labels={1: ball, 2: core}"


def site(folder: Path, *more: str, labels: str = BALLS, count: int = 4) -> Site:
    data = labelled_volumes(folder / "data", count=count)
    recipe = load_recipe("segmentation/cine-lv", [*SMALL, labels, f"data.train='{data}'", *more])
    return Site(recipe, output=folder / "model")


def discs(folder: Path, *, count: int, seed: int) -> Path:
    """A Decathlon data set of pictures: a bright disc to find, and a paler square."""
    rows, axes = [], np.stack(np.meshgrid(*[np.arange(32)] * 2, indexing="ij"))
    for number in range(count):
        generator = np.random.default_rng((seed, number))
        far = np.linalg.norm(axes - generator.uniform(9, 22, 2)[:, None, None], axis=0)
        labels = (far < generator.uniform(4, 7)).astype(np.uint8)
        values = 100.0 * labels + generator.normal(0, 15, labels.shape)
        top, left = generator.integers(0, 26, 2)
        values[top : top + 6, left : left + 6] += 50
        for kind, data in (("imagesTr", values.astype(np.float32)), ("labelsTr", labels)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(data[..., None], np.eye(4)), folder / kind / f"case{number}.nii.gz")
        rows.append({"image": f"./imagesTr/case{number}.nii.gz", "label": f"./labelsTr/case{number}.nii.gz"})
    about = {"name": "discs", "labels": {"0": "background", "1": "disc"}, "training": rows}
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


def mean_of(rounds: list[tuple[list[np.ndarray], int, dict]]) -> list[np.ndarray]:
    """What the server makes of the sites' answers."""
    total = sum(cases for _, cases, _ in rounds)
    return [
        np.asarray(sum(w * cases for w, (_, cases, _) in zip(parts, rounds, strict=True)) / total, np.float32)
        for parts in zip(*(weights for weights, _, _ in rounds), strict=True)
    ]


def test_the_mean_of_what_sites_learned_is_no_worse_than_each_of_them(tmp_path: Path) -> None:
    small = [
        "data.hold=0.34", "data.labels={1: disc}", "objective.patch=[1, 32, 32]", "objective.batch=4",
        "objective.repeats=6", "objective.largest=[]", "objective.model.encoder.channels=[8, 16, 16, 16]",
        "objective.model.encoder.convs=1", "objective.model.head={ndim: 2, convs: 1, deep: 1, norm: batch}",
        "train.epochs=1", "train.rate=3.0e-2",
    ]  # fmt: skip
    sites = []
    for number, count in enumerate((18, 12)):
        data = discs(tmp_path / f"data{number}", count=count, seed=number)
        recipe = load_recipe("segmentation/cine-lv", [*small, f"data.train='{data}'"])
        sites.append(Site(recipe, output=tmp_path / f"model{number}"))
    first = sites[0].start()
    rounds = [one.fit(first, number=1, rounds=1) for one in sites]
    mean = mean_of(rounds)
    settled = mean_of([one.settle(mean) for one in sites])
    best = max(told["score"] for _, _, told in rounds)
    raw, between, after = (
        [one.finish(weights, settled=alike)[0] for one in sites]
        for weights, alike in ((mean, True), (mean, False), (settled, True))
    )
    assert best > 0.6
    assert min(after) > best - 0.02
    assert min(between) > best - 0.02
    assert min(raw) < best - 0.02  # else this shows nothing: batch norm's statistics are those of other weights


def test_settling_leaves_the_weights_and_what_is_without_batch_norm(tmp_path: Path) -> None:
    one = site(tmp_path / "a")
    first = one.start()
    settled, cases, told = one.settle(first)
    assert cases == 3 and set(told) == {"network"}
    names = list(_sent(one._objective().network))
    changed = {
        name.rsplit(".", 1)[1] for name, a, b in zip(names, first, settled, strict=True) if not np.array_equal(a, b)
    }
    assert changed == {"running_mean", "running_var"}
    plain = site(
        tmp_path / "b", "objective.model.encoder.norm=instance",
        "objective.model.head={ndim: 2, convs: 1, norm: instance}",
    )  # fmt: skip
    first = plain.start()
    assert all(np.array_equal(a, b) for a, b in zip(first, plain.settle(first)[0], strict=True))


def test_a_round_hands_out_weights_and_counts_only(tmp_path: Path) -> None:
    one = site(tmp_path)
    first = one.start()
    weights, cases, told = one.fit(first, number=1, rounds=2)
    assert cases == 3
    assert [w.shape for w in weights] == [w.shape for w in first] and all(w.dtype == np.float32 for w in weights)
    assert any(not np.array_equal(a, b) for a, b in zip(weights, first, strict=True))
    assert set(told) == {"loss", "score", "network"} and str(tmp_path) not in json.dumps(told)


def test_sites_begin_alike_differ_after_a_round_and_end_with_one_model(tmp_path: Path) -> None:
    sites = [site(tmp_path / "a"), site(tmp_path / "b", count=9)]
    first = sites[0].start()
    assert all(np.array_equal(a, b) for a, b in zip(first, sites[1].start(), strict=True))
    rounds = [one.fit(first, number=1, rounds=1) for one in sites]
    assert rounds[0][2]["network"] == rounds[1][2]["network"]
    assert not np.array_equal(rounds[0][0][0], rounds[1][0][0])
    mean = mean_of(rounds)
    for one in sites:
        score, cases = one.finish(mean)
        assert 0 <= score <= 1 and cases >= 3
    files = [load_file(one.output / "segment.safetensors") for one in sites]
    assert files[0].keys() == files[1].keys()
    assert all(np.array_equal(files[0][name], files[1][name]) for name in files[0])


def test_rounds_end_with_small_steps(tmp_path: Path) -> None:
    one = site(tmp_path)
    first = one.start()

    def moved(number: int) -> float:
        return float(np.abs(one.fit(first, number=number, rounds=10)[0][0] - first[0]).mean())

    assert moved(10) < 0.5 * moved(1)


def test_another_network_is_refused(tmp_path: Path) -> None:
    one = site(tmp_path / "a")
    other = site(tmp_path / "b", labels="data.labels={1: ball}")
    with pytest.raises(AdapterMismatch, match="same labels"):
        other.fit(one.start(), number=1, rounds=1)
    turned = site(tmp_path / "c", labels="data.labels={1: core, 2: ball}")  # the same shapes, another meaning
    told = [s.fit(one.start(), number=1, rounds=1)[2]["network"] for s in (one, turned)]
    assert told[0] != told[1]


@pytest.mark.parametrize("task", ["classification/pneumonia", "detection/cells"])
def test_other_heads_on_the_shared_encoder_send_what_is_theirs_only(task: str, tmp_path: Path) -> None:
    kind = load_recipe(task)["objective"]["name"]
    made = SMALL_OF[kind](Made(tmp_path, tmp_path, tmp_path, tmp_path / "made"))
    one = Site(load_recipe(task, [*made, "train.epochs=1"]), output=tmp_path / "model")
    first = one.start()
    weights, _, told = one.fit(first, number=1, rounds=1)
    assert [w.shape for w in weights] == [w.shape for w in first]
    assert sum(w.size for w in weights) < 4_000_000  # not the seven million of the shared encoder besides
    again = one.fit(weights, number=2, rounds=2)[2]
    assert again["network"] == told["network"]
    assert one.finish(weights)[0] >= 0


def test_what_has_no_head_is_refused(tmp_path: Path) -> None:
    recipe = load_recipe("registration/voxelmorph", SMALL_OF["registration"](Made(*[tmp_path / "made"] * 4)))
    with pytest.raises(ConfigError, match="segmentation, detection"):
        Site(recipe, output=tmp_path).start()


@pytest.mark.slow
@pytest.mark.skipif(not all(map(find_spec, ("flwr", "ray"))), reason="needs medfm[federated]")
def test_three_sites_are_added_up_under_masks(tmp_path: Path) -> None:
    data = [str(labelled_volumes(tmp_path / name, count=4)) for name in "abc"]
    done = subprocess.run(
        [sys.executable, str(assets.root() / "apps" / "federated"), "segmentation/cine-lv", *data, "--rounds", "2",
         "--output", str(tmp_path / "out"), BALLS, *(s for s in SMALL if "epochs" not in s)],
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("Secure aggregation completed") == 3
    lines = [json.loads(line) for line in (tmp_path / "out" / "rounds.jsonl").read_text().splitlines()]
    assert [line["after"] for line in lines] == ["training", "averaging"] * 2 + ["settling", "averaging"]
    assert all(line["sites"] == 3 for line in lines)
    files = [load_file(tmp_path / "out" / name / "segment.safetensors") for name in "abc"]
    assert all(np.array_equal(files[0][n], f[n]) for f in files for n in f)
