"""Prompted segmentation: frames go there and back, a mask lies where the scan lies, a wrong eye is an error."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_recipes import SMALL, Made, labelled_volumes

from medfm.cli import main
from medfm.config import load_recipe
from medfm.errors import AdapterMismatch, UnknownName
from medfm.nn.frames import cut, frame_of, frame_to_picture, maps_of, put_back
from medfm.predict.prompting import outline_prompted, outline_seen
from medfm.prompter import Drawn, Prompter, box_of, load_prompter
from medfm.scan import Scan
from medfm.train.loop import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompter")
    made = Made(Path(), Path(), Path(), folder / "made")
    small = [*SMALL["prompted"](made), "train.epochs=6", "train.rate=5.0e-3", "train.average=0"]
    return train(load_recipe("segmentation/medsam", small), output=folder / "run")


def ball(radius: int = 6, at: tuple[int, int, int] = (12, 12, 12)) -> Scan:
    far = np.linalg.norm(np.stack(np.meshgrid(*[np.arange(24)] * 3, indexing="ij")).T - np.array(at), axis=-1).T
    values = 100 * (far < radius) + np.random.default_rng(0).normal(0, 10, far.shape)
    return Scan.from_array(values.astype(np.float32), affine=np.diag([1.0, 1.0, 3.0, 1.0]))


def test_what_is_cut_out_goes_back_to_its_place() -> None:
    picture = torch.zeros(1, 1, 64, 96)
    picture[..., 20:40, 30:70] = 1
    frame = frame_of(torch.tensor([[0.3, 0.3, 0.75, 0.65]]))
    piece = cut(picture[0], frame_to_picture(frame), 128)
    back = put_back(piece, frame, (64, 96), outside=0.0)
    assert ((back > 0.5) == (picture > 0.5)).float().mean() > 0.99


def test_a_coarse_frame_steps_over_nothing() -> None:
    picture = torch.zeros(1, 256, 256)
    picture[:, ::4] = 1
    whole = cut(picture, frame_to_picture(torch.tensor([[0.0, 0.0, 1.0, 1.0]])), 32)
    np.testing.assert_allclose(whole, 0.25, atol=1e-6)


def test_a_box_is_drawn_where_it_is() -> None:
    frame, box = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[0.25, 0.5, 0.75, 1.0]])
    drawn = maps_of(frame, box, [torch.tensor([[0.5, 0.5, 1.0], [0.1, 0.1, 0.0]])], 32)
    assert drawn[0, 0].sum() == 16 * 16 and drawn[0, 0, 16:, 8:24].min() == 1
    assert drawn[0, 1].argmax() in (15 * 32 + 15, 16 * 32 + 16, 15 * 32 + 16, 16 * 32 + 15) and drawn[0, 2].max() > 0.7


def test_it_outlines_what_lies_in_the_box_and_follows_it(trained: Path) -> None:
    model, scan = load_prompter(trained), ball()
    mask = outline_prompted(model, scan, box=(6, 6, 19, 19), index=12)
    assert mask.array.shape == (24, 24, 24) and set(np.flatnonzero(mask.array.any((1, 2)))) <= {12}
    np.testing.assert_allclose(mask.affine, scan.affine)
    truth = np.asarray(scan.data[0]) > 50
    overlap = 2 * (mask.array[12].astype(bool) & truth[12]).sum() / (mask.array[12].sum() + truth[12].sum())
    assert overlap > 0.7
    deep = outline_prompted(model, scan, box=(6, 6, 19, 19), index=12, through=True)
    assert np.array_equal(deep.array[12], mask.array[12]) and deep.array.any((1, 2)).sum() >= 1


def test_a_click_is_enough_and_costs_two_looks(trained: Path) -> None:
    model, scan = load_prompter(trained), ball()
    grid, shapes = model.preparation(scan), []
    model.encoder.register_forward_hook(lambda _, given, __: shapes.append(tuple(given[0].shape)))
    found = model.draw(grid, 12, points=[(0.5, 0.5, 1), (0.05, 0.05, 0)])
    assert [shape[0] for shape in shapes] == [3, 1] and all(shape[1:] == (3, 1, 32, 32) for shape in shapes)
    assert found.probability.shape == grid.shape[1:] and 0 <= found.quality <= 1


def test_a_model_saved_and_loaded_says_the_same_and_stays_small(trained: Path, tmp_path: Path) -> None:
    model, scan = load_prompter(trained), ball()
    model.save(tmp_path)
    again = load_prompter(tmp_path)
    assert (tmp_path / "prompt.safetensors").stat().st_size < 5_000_000
    one, other = (outline_prompted(m, scan, box=(6, 6, 19, 19), index=12).array for m in (model, again))
    np.testing.assert_array_equal(one, other)


def test_a_frozen_eye_is_not_saved_again_and_another_is_an_error(tmp_path: Path) -> None:
    encoder = {"name": "shared", "tune": "none", "levels": 4}
    Prompter(encoder=encoder, prepare={"intensity": "range", "channels": 3}).save(tmp_path)
    assert not any(name.startswith("encoder.") for name in load_file(tmp_path / "prompt.safetensors"))
    about = json.loads((tmp_path / "medfm.json").read_text())
    assert about["encoder"]["eye"]
    about["encoder"]["eye"] = "0" * 64
    (tmp_path / "medfm.json").write_text(json.dumps(about))
    with pytest.raises(AdapterMismatch, match="trained on the encoder 000000000000"):
        load_prompter(tmp_path)


def test_boxes_and_clicks_are_measured_beside_the_filled_box(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = labelled_volumes(tmp_path / "balls", count=2)
    given = ("evaluate", "segment", data, "--model", trained, "--output", tmp_path / "out", "--least", "30")
    monkeypatch.setattr(sys, "argv", ["medfm", *map(str, given)])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "out" / "cases.jsonl").read_text().splitlines()]
    assert metrics["overall"]["n"] == metrics["data"]["things"] == len(rows) > 10
    assert {row["label"] for row in rows} <= {"ball", "core"} and min(row["pixels"] for row in rows) >= 30
    for figures in (metrics, *metrics["classes"].values()):
        assert {"value", "low", "high", "n"} <= set(figures["click"]) & set(figures["loose_box"])
    disk = 2 * (np.pi / 4) / (np.pi / 4 + 1)  # of a disk and the square around it
    assert metrics["classes"]["ball"]["filled_box"]["value"] == pytest.approx(disk, abs=0.1)
    expected = np.mean([row["box"] - row["filled_box"] for row in rows])
    assert metrics["gain"]["value"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_box_is_meant_as_the_slice_is_shown(trained: Path, plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A box in the pixels of a viewer once fell on the slice turned upside down."""
    spacing = {"axial": (1.0, 1.0, 4.0), "coronal": (1.0, 4.0, 1.0), "sagittal": (4.0, 1.0, 1.0)}[plane]
    scan = Scan.from_array(np.arange(6 * 8 * 10, dtype=np.int16).reshape(6, 8, 10), affine=np.diag([*spacing, 1.0]))
    model, (shown, _) = load_prompter(trained), scan.slices()
    assert scan.best_plane == plane

    def filled(self: Prompter, grid: object, index: int, *, box: list[float], points: object) -> Drawn:
        height, width = shown.shape[2:]
        rows, columns = (np.arange(n) / n for n in (height, width))
        inside = ((rows >= box[1]) & (rows < box[3]))[:, None] & ((columns >= box[0]) & (columns < box[2]))
        return Drawn(inside.astype(np.float32), 1.0)

    monkeypatch.setattr(Prompter, "draw", filled)
    mask = outline_seen(model, scan, box=(1, 0, 4, 2), index=1)
    assert set(scan.data[0][mask.array > 0]) == set(shown[0, 1, 0:2, 1:4].ravel())


def test_wrong_prompts_are_named(trained: Path) -> None:
    model, scan = load_prompter(trained), ball()
    with pytest.raises(ValueError, match="slices 0 to 23"):
        outline_prompted(model, scan, box=(1, 1, 4, 4), index=24)
    with pytest.raises(ValueError, match="at least one point"):
        outline_prompted(model, scan)
    with pytest.raises(ValueError, match="left < right"):
        outline_prompted(model, scan, box=(9, 1, 4, 4))
    with pytest.raises(UnknownName, match="expected one of kind 'prompt'"):
        load_prompter("hippocampus")
    assert box_of(np.zeros((4, 4), bool)) is None
