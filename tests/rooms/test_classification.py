"""Classification: learned labels come back calibrated, maps point at what made them, figures count what they say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_recipes import SMALL, Made, labelled_pictures

import medfm
from medfm.classifier import Classifier, load_classifier
from medfm.config import load_recipe
from medfm.data.labels import find_labels, three_sides
from medfm.errors import ConfigError, DataError, UnknownName
from medfm.evaluate.classify import evaluate_classify
from medfm.fitting import doubts, field_of, too_wide
from medfm.heads.classify import ClassifyHead
from medfm.image.patches import tint
from medfm.metrics import best_temperature, operating_points, sorting_figures
from medfm.objectives.classification import Classification
from medfm.predict import explain
from medfm.scan import Scan
from medfm.train.loop import train


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled_pictures(tmp_path_factory.mktemp("labels"), count=48)


@pytest.fixture(scope="module")
def trained(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small classifier that has learned squares from salt."""
    folder = tmp_path_factory.mktemp("classifier")
    small = [
        *SMALL["classification"](Made(Path(), Path(), Path(), folder / "made")),
        f"data={{train: '{pictures}', hold: 0.25, tune: 0.25}}", "train.epochs=10", "train.rate=1.0e-2",
        "objective.model={encoder: {name: conv, ndim: 2, inputs: 3, channels: [8, 16, 32], norm: batch}, head: {}}",
        "objective.prepare={channels: 3, intensity: range}", "objective.patch=[1, 48, 48]",
        "train.average=0.8", "objective.vary=0", "objective.mix=0", "objective.flips=''", "objective.degrees=0",
    ]  # fmt: skip
    return train(load_recipe("classification/skin", small), output=folder / "run")


def test_it_knows_what_it_learned_on_pictures_it_never_saw(trained: Path, pictures: Path, tmp_path: Path) -> None:
    metrics = evaluate_classify(load_classifier(trained), pictures, output=tmp_path, held_out=True, resamples=20)
    assert metrics["auc"]["value"] > 0.9 and metrics["balanced_accuracy"]["value"] > 0.8
    assert metrics["covered"]["auc"]["value"] < metrics["auc"]["value"]  # most of the squares lie in the middle
    assert metrics["auc"]["n"] == metrics["thumbnails"]["auc"]["n"] == 12
    points = metrics["classes"]["square"]["points"]
    assert {"threshold", "sensitivity", "specificity"} == set(points["sensitive"])
    assert points["sensitive"]["threshold"] <= points["specific"]["threshold"] + 1e-6
    assert len((tmp_path / "cases.jsonl").read_text().splitlines()) == 12


def test_mixed_pictures_count_for_both_labels_by_their_shares(pictures: Path) -> None:
    data = {"train": str(pictures), "hold": 0.25, "tune": 0.25}
    model = {"encoder": {"name": "conv", "ndim": 2, "inputs": 3, "channels": [4, 8]}, "head": {"dropout": 0}}
    settings = {"model": model, "data": data, "prepare": {"channels": 3, "intensity": "range"}, "patch": [1, 48, 48]}
    plain, mixed = (Classification(**settings, batch=6, vary=0, mix=mix).eval() for mix in (0.0, 1.0))
    mixed.load_state_dict(plain.state_dict())
    one, both = (objective.collate(list(range(6))) for objective in (plain, mixed))
    share = both["share"].view(-1, 1, 1, 1, 1)
    assert 0 < share.min() < share.max() < 1
    torch.testing.assert_close(both["x"], share * one["x"] + (1 - share) * one["x"].roll(1, 0))
    whole = dict(both, share=torch.ones(6))
    other = dict(whole, target=both["target"].roll(1))
    half = dict(both, share=torch.full((6,), 0.5))
    losses = [mixed(batch)["loss"].item() for batch in (whole, other, half)]
    assert losses[2] == pytest.approx((losses[0] + losses[1]) / 2) and losses[0] != losses[1]


def test_a_tint_changes_colour_and_no_shape() -> None:
    x = torch.rand(8, 3, 1, 6, 6) * 0.5
    tinted = tint(x, torch.Generator().manual_seed(0), strength=0.2)
    factors = tinted / x
    torch.testing.assert_close(factors.amax((3, 4)), factors.amin((3, 4)))  # one factor for all of a channel
    assert 0.8 < factors.min() < factors.max() < 1.25 and factors[:, 0].std() > 0.03


def test_a_mirrored_scan_gets_the_same_answer_where_mirror_images_are_alike(trained: Path) -> None:
    model, x, spacing = load_classifier(trained), torch.rand(1, 3, 1, 48, 48), torch.ones(1, 3)
    assert not torch.allclose(model.mirrored(x, spacing), model.mirrored(x.flip(3), spacing), atol=1e-4)
    model.settings["flips"] = "HW"
    torch.testing.assert_close(model.mirrored(x, spacing), model.mirrored(x.flip(3, 4), spacing))
    torch.testing.assert_close(model.mirrored(x, spacing), model.mirrored(x.flip(4), spacing))


def test_saved_averaged_and_explained(trained: Path, pictures: Path, tmp_path: Path) -> None:
    model = load_classifier(trained)
    model.save(tmp_path)
    again, scan = load_classifier(tmp_path), Scan.read(pictures.parent / "0.png")
    scores = medfm.classify(model, scan)
    assert sum(scores.probabilities.values()) == pytest.approx(1)
    assert medfm.classify(again, scan).probabilities == pytest.approx(scores.probabilities, abs=2e-3)
    assert medfm.classify([model, again], scan).best == scores.best
    assert json.dumps(scores.to_dict())
    hits = 0
    for number in range(0, 24, 2):  # the pictures of a square: where was it seen?
        scan = Scan.read(pictures.parent / f"{number}.png")
        heat = explain(model, scan, "square")[0]
        row, column = (int(v) for v in np.average(np.indices(heat.shape), axis=(1, 2), weights=heat))
        hits += bool((scan.data[0, 0, row - 1 : row + 2, column - 1 : column + 2] == 200).all())
    assert hits >= 11  # of 12; a square covers a sixteenth of its picture
    with pytest.raises(ConfigError, match="knows no label"):
        explain(model, scan, "circle")
    again.labels = ["a", "b"]
    with pytest.raises(ConfigError, match="other labels"):
        medfm.classify([model, again], scan)


def test_a_class_map_is_its_logit_spread_out() -> None:
    torch.manual_seed(0)
    head = ClassifyHead([4, 8], 3, levels=[0, 1]).eval()
    pyramid = [torch.randn(2, 4, 1, 8, 8), torch.randn(2, 8, 1, 4, 4)]
    means = sum(level.mean((2, 3, 4)) for level in head.maps(pyramid))
    torch.testing.assert_close(means, head(pyramid) - head.logits.bias, atol=1e-5, rtol=0)


def test_monais_grad_cam_is_the_class_map_of_each_level() -> None:
    from monai.visualize.class_activation_maps import GradCAM

    torch.manual_seed(0)
    head = ClassifyHead([4, 8], 3, levels=[0, 1]).eval()
    x = torch.randn(1, 12, 1, 4, 4, requires_grad=True)

    class Split(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = head

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head([x[:, :4], x[:, 4:]])

    for level, exact in enumerate(head.maps([x[:, :4], x[:, 4:]])):
        found = GradCAM(Split(), f"head.taps.{level}").compute_map(x, class_idx=2)
        torch.testing.assert_close(found[0, 0] * 16, exact[0, 2].relu())  # of a mean over 16 cells


def test_a_heat_map_shows_what_any_of_the_pooled_levels_saw() -> None:
    """Of two levels only the finer one was shown, though the coarser had nearly all to say: noise beside the thing."""
    model = Classifier(
        encoder={"name": "conv", "ndim": 2, "inputs": 1, "channels": [4, 4]}, head={"levels": [0, 1]},
        labels=["a", "b"], prepare={"size": 32, "intensity": "range"},
    ).eval()  # fmt: skip
    grid = model.preparation(Scan.from_array(np.random.default_rng(0).integers(0, 255, (32, 32), dtype=np.uint8)))
    with torch.no_grad():
        model.head.logits.weight[:, :4] = 0
        maps = model.head.maps(model.encoder(grid.numbers()[None]))
    assert maps[0].abs().max() == 0 < maps[1][0, 0].max()
    seen = torch.nn.functional.interpolate(maps[1][:, :1], grid.shape, mode="trilinear")[0, 0].relu()
    torch.testing.assert_close(model.heat(grid, "a"), seen / seen.max())


def test_a_picture_much_longer_than_wide_is_read_and_explained() -> None:
    """A whole body of 1024 x 256 pixels is 16 wide at a size of 64, and the shared encoder wants 32."""
    model = Classifier(
        encoder={"name": "shared", "levels": 4}, head={"levels": [2]}, labels=["a", "b"],
        prepare={"size": 64, "channels": 3, "intensity": "range"},
    ).eval()  # fmt: skip
    scan = Scan.from_array(np.random.default_rng(0).integers(0, 255, (256, 64), dtype=np.uint8))
    assert sum(medfm.classify(model, scan).probabilities.values()) == pytest.approx(1)
    assert model.heat(model.preparation(scan), "a").shape == (1, 64, 16)


@pytest.mark.parametrize(("right", "down"), [("L", "P"), ("L", "I"), ("P", "I")], ids=["axial", "coronal", "sagittal"])
def test_a_patients_slice_is_read_and_explained_as_the_picture_of_it(right: str, down: str) -> None:
    """Lying in the patient, a slice was read turned by 180 degrees, or as one slice for each of its rows."""
    torch.manual_seed(0)
    model = Classifier(
        encoder={"name": "conv", "ndim": 2, "inputs": 1, "channels": [4, 8]}, head={"levels": [1]}, labels=["a", "b"],
        prepare={"size": 40, "intensity": "range", "displayed": True},
    ).eval()  # fmt: skip
    away = {"L": (-1.0, 0.0, 0.0), "P": (0.0, -1.0, 0.0), "I": (0.0, 0.0, -1.0)}
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = away[right], away[down]
    affine[:3, 2] = np.cross(affine[:3, 0], affine[:3, 1])
    pixels = np.random.default_rng(0).integers(0, 255, (32, 40), dtype=np.uint8)
    pixels[:8, :10] = 0  # not alike when turned
    picture, scan = Scan.from_array(pixels), Scan.from_array(pixels[None], affine=affine)
    assert scan.frame == "patient"
    wanted = medfm.classify(model, picture).probabilities
    assert medfm.classify(model, scan).probabilities == pytest.approx(wanted, abs=1e-5)
    heat = explain(model, scan, "a")
    assert heat.shape == scan.data.shape[1:] and heat.max() > 0
    shown = replace(scan, data=heat[None]).slices()[0][0]
    np.testing.assert_allclose(shown, explain(model, picture, "a"), atol=1e-5)
    assert doubts("classify", model.settings, scan) == []


@pytest.mark.parametrize("recipe", ["clam", "pneumonia", "retina", "skin"])
def test_classifiers_of_pictures_read_slices_as_they_are_displayed(recipe: str) -> None:
    assert load_recipe(f"classification/{recipe}", [])["objective"]["prepare"]["displayed"]


def test_temperature_and_points_do_what_they_promise() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = (torch.rand(4000, generator=generator) < 0.4).long()
    logit = 2 * truth - 1 + torch.randn(4000, generator=generator)
    sure = 3 * 2 * torch.stack([-logit / 2, logit / 2], 1)  # three times too sure
    assert best_temperature(sure, truth) == pytest.approx(3, rel=0.15)
    scores = torch.sigmoid(2 * logit)
    points = operating_points(scores[:2000], truth[:2000] == 1, sensitivity=0.95, specificity=0.9)
    fresh, present = scores[2000:], truth[2000:] == 1
    assert abs((fresh[present] >= points["sensitive"]).float().mean() - 0.95) < 0.03
    assert abs((fresh[~present] < points["specific"]).float().mean() - 0.9) < 0.03
    assert operating_points(scores, torch.ones(4000, dtype=torch.bool), sensitivity=0.9, specificity=0.9) == {}
    figures = sorting_figures(torch.tensor([[0.9, 0.1, 0], [0.8, 0.2, 0], [0.3, 0.7, 0]]), torch.tensor([0, 1, 1]))
    assert figures["auc"] == 1.0 and figures["balanced_accuracy"] == pytest.approx(0.75)


def test_layouts_and_sides(tmp_path: Path) -> None:
    picture = Image.fromarray(np.zeros((8, 8), np.uint8))
    (tmp_path / "ham" / "images").mkdir(parents=True)
    rows = [("L1", "a", "mel"), ("L1", "b", "mel"), ("L2", "c", "nv"), ("L3", "d", "nv")]
    for _, name, _ in rows:
        picture.save(tmp_path / "ham" / "images" / f"{name}.jpg")
    text = "lesion_id,image_id,dx\n" + "".join(",".join(row) + "\n" for row in rows)
    (tmp_path / "ham" / "metadata.csv").write_text(text)
    ham = find_labels(tmp_path / "ham")
    assert ham.labels == ["mel", "nv"] and [s.patient for s in ham.scans] == ["L1", "L1", "L2", "L3"]
    zeros = np.zeros((6, 28, 28), np.uint8)
    kinds = np.array([[0], [1]] * 3, np.uint8)
    np.savez(tmp_path / "mnist.npz", train_images=zeros, train_labels=kinds, val_images=zeros, val_labels=kinds)
    train_part, tune, held, _ = three_sides({"train": tmp_path / "mnist.npz", "tune": 0.34}, seed=0)
    assert {s.side for s in held} == {"validate"} and {s.side for s in [*train_part, *tune]} == {"train"}
    for label in ("x", "y"):
        (tmp_path / "folders" / label).mkdir(parents=True)
        for number in range(10):
            picture.save(tmp_path / "folders" / label / f"{number}.png")
    sides = three_sides({"train": tmp_path / "folders", "hold": 0.3, "tune": 0.3}, seed=0)[:3]
    patients = [{s.patient for s in side} for side in sides]
    assert not patients[0] & patients[1] and not patients[1] & patients[2] and sum(map(len, patients)) == 20
    with pytest.raises(DataError, match="no such file"):
        find_labels(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="no key of data"):
        three_sides({"train": tmp_path / "folders", "hold": 0.3, "share": 1}, seed=0)
    with pytest.raises(UnknownName, match="expected one of kind 'classify'"):
        load_classifier("default")


def test_a_model_of_photographs_is_not_shown_grey_scans(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from medfm.assistant import task_models

    about = [(tmp_path / name, {"kind": "detect", "labels": ["x"], "about": {"colour": name == "photos"}})
             for name in ("photos", "scans")]  # fmt: skip
    monkeypatch.setattr(task_models, "_folders", lambda: about)
    monkeypatch.setattr(task_models, "_detector", lambda folder: Path(folder).name)
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    colour, grey = Scan.from_array(pixels), Scan.from_array(pixels[..., 0])
    assert task_models.detectors_for("", colour) == ["photos"]
    assert task_models.detectors_for("x", grey) == ["scans"]
    about[1][1]["about"]["units"] = "HU"  # and one of CT nothing else
    assert task_models.detectors_for("x", grey) == []
    assert task_models.detectors_for("x", Scan.from_array(pixels[..., 0], modality="CT", units="HU")) == ["scans"]


def test_what_speaks_against_showing_a_model_a_scan() -> None:
    settings = {"prepare": {"size": 64}, "about": {"colour": False}}
    volume = Scan.from_array(np.random.default_rng(0).integers(0, 99, (5, 8, 8)), affine=np.eye(4))
    assert doubts("classify", settings, volume) == ["trained on single pictures; this is a volume of 5 slices"]
    assert doubts("classify", settings, Scan.from_array(volume.data[0, 0])) == []
    film = {**settings, "about": {"modalities": ["CR", "DX"]}}
    ct = Scan.from_array(volume.data[0, 0], modality="CT")
    assert doubts("classify", film, ct) == ["trained on CR and DX; this is CT"]
    assert doubts("classify", film, Scan.from_array(volume.data[0, 0])) == []  # not known what it is
    assert doubts("detect", settings, volume) == []  # which looks at each slice
    crops = {"prepare": {"spacing": [0.0, 2.0, 2.0]}, "patch": [2, 2, 2]}
    assert (
        field_of([2, 2, 2], {"spacing": [0.0, 2.0, 2.0]}, volume) == [2.0, 4.0, 4.0]
        and too_wide("segment", crops, volume) == []
    )
    large = Scan.from_array(np.zeros((40, 40, 40), np.uint8), affine=np.eye(4))
    assert "this scan is 40 x 40 x 40 mm" in too_wide("segment", crops, large)[0]
    assert too_wide("segment", {**crops, "patch": [1, 2, 2]}, large) == []
