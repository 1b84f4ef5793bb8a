"""Searches on known movements, networks in patient space, training on pairs, and the figures of an evaluation."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from alignment_builders import SHAPE, bent, corners, head, movement, scan, texture

import medfm
from medfm.data.pairs import draw_pairs, read_pairs
from medfm.errors import ConfigError, DataError
from medfm.evaluate.register import evaluate_register, read_alignments
from medfm.grid import Grid
from medfm.iterative import METHODS, iterate, starting
from medfm.nn import half
from medfm.predict import likeness
from medfm.predict.matching import match
from medfm.progress import heard_by
from medfm.registrar import Registrar
from medfm.scan import Alignment, Mask, Scan
from medfm.segmenter import Segmenter
from medfm.stored import start_from


@pytest.mark.parametrize(("method", "invert"), [("rigid", False), ("rigid", True), ("affine", False)])
def test_a_search_recovers_a_movement_in_any_contrast(method, invert):
    truth, fixed = movement(), scan(head())
    moving = Alignment(np.linalg.inv(truth)).warp(fixed, fixed)
    if invert:
        moving = scan(255 - moving.data[0])
    found = iterate(moving, fixed, method=method)
    x = corners(fixed)
    error = np.linalg.norm(found.points(x) - Alignment(truth).points(x), axis=1)
    assert np.median(error) < 0.5
    assert found.method == method


@pytest.mark.parametrize("method", ["bspline", "demons"])
def test_a_search_bends_without_folding(method):
    fixed = scan(texture())
    moving = Alignment(np.eye(4), bent().field, fixed.affine).warp(fixed, fixed, edge=True)
    found = iterate(moving, fixed, method=method, likeness="ncc", start=np.eye(4))
    before = likeness(moving, fixed)["correlation"]
    assert likeness(found.warp(moving, fixed, edge=True), fixed)["correlation"] > before + 0.3 * (1 - before)
    assert (found.jacobian() <= 0).mean() <= (0.02 if method == "bspline" else 0)  # B-splines may fold


@pytest.mark.parametrize("method", ["affine", "bspline"])
def test_the_same_scans_give_the_same_alignment(method):
    """On one core they always did; on two, sums over voxels came out in another order each time."""
    fixed = scan(texture())
    found = [iterate(Alignment(movement()).warp(fixed, fixed), fixed, method=method) for _ in range(2)]
    np.testing.assert_array_equal(found[0].matrix, found[1].matrix)
    x = corners(fixed)
    np.testing.assert_array_equal(found[0].points(x), found[1].points(x))


@pytest.mark.parametrize("method", METHODS)
def test_who_waits_for_a_search_hears_of_its_steps_and_may_end_it(method):
    """Stop in the chat: the last of a method's searches ends at once, with what was raised."""
    fixed, heard, searches = scan(texture()), [], {"rigid": 1, "affine": 2, "bspline": 3, "demons": 3}[method]

    def listen(done: int, total: int) -> None:
        assert 1 <= done <= total
        heard.append(done)
        if heard.count(1) == searches:
            raise Unwanted

    class Unwanted(Exception):
        pass

    with heard_by(listen), pytest.raises(Unwanted):
        iterate(Alignment(movement()).warp(fixed, fixed), fixed, method=method)
    assert heard[-1] == 1


def test_ctrl_c_ends_a_search_at_its_next_step():
    fixed, heard = scan(texture()), []

    def listen(done: int, total: int) -> None:
        heard.append(done)
        signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with heard_by(listen), pytest.raises(KeyboardInterrupt):
        iterate(Alignment(movement()).warp(fixed, fixed), fixed, method="rigid")
    assert heard == [1] and signal.getsignal(signal.SIGINT) is before


def test_mutual_information_holds_where_correlation_fails():
    """Floor of systems.md 7.2, with a contrast that is no straight line of the other."""
    fixed, truth = scan(texture()), movement(3, (1, -1, 1))
    moved = Alignment(np.linalg.inv(truth)).warp(fixed, fixed, edge=True)
    moving = scan(np.abs(moved.data[0] - 100))
    x = corners(fixed)
    there = Alignment(truth).points(x)
    errors = [
        np.median(np.linalg.norm(iterate(moving, fixed, method="rigid", likeness=kind).points(x) - there, axis=1))
        for kind in ("mi", "ncc")
    ]
    assert errors[0] < 0.3
    assert errors[1] > 1


def test_pictures_are_registered_in_their_plane():
    fixed = Scan.from_array(head((1, 64, 64)), spacing=(0.5, 0.5, 1.0))
    moving = Scan.from_array(np.roll(fixed.data[0], (3, 2), (1, 2)), spacing=(0.5, 0.5, 1.0))
    for found in (iterate(moving, fixed, method="rigid"), iterate(moving, fixed, method="bspline", likeness="ncc")):
        move = found.displacement(fixed)[:, 0, 20:44, 20:44].reshape(3, -1)
        expected = fixed.affine[:3, :3] @ [2, 3, 0]
        assert np.abs(np.median(move, 1) - expected).max() < 0.3


def test_searches_say_why_they_cannot():
    with pytest.raises(DataError, match="same value"):
        iterate(scan(np.ones(SHAPE, np.float32)), scan(head()))
    with pytest.raises(DataError, match="picture"):
        iterate(Scan.from_array(head((1, 20, 20))), scan(head()))


def test_a_search_starts_from_the_headers_or_from_the_middle():
    fixed = scan(head())
    far = fixed.affine.copy()
    far[:3, 3] += 500
    assert np.allclose(starting(fixed, fixed), np.eye(4))
    assert np.allclose(starting(scan(head(), affine=far), fixed)[:3, 3], 500)
    slab = scan(head()[:1].repeat(3, 0), affine=far)  # and nowhere near by its header
    assert np.linalg.norm(starting(slab, fixed)[:3, 3]) > 300


def small(**settings: object) -> Registrar:
    torch.manual_seed(0)
    model = Registrar(
        encoder={"name": "conv", "inputs": 2, "channels": [4, 8, 8], "convs": 1},
        head={"level": 1}, prepare={"intensity": "zscore"}, symmetric=True, **settings,
    )  # fmt: skip
    return model.eval()


def test_a_network_registers_in_patient_space():
    model = small(start="header")
    torch.nn.init.normal_(model.head.decoder.logits[0].weight, std=0.2)
    moving, fixed = scan(head()), scan(head(seed=1))
    there, back = (medfm.register(*pair, model=model) for pair in ((moving, fixed), (fixed, moving)))
    x = corners(fixed)
    way = there.points(x)
    assert np.linalg.norm(way - x, axis=1).max() > 0.1
    assert np.linalg.norm(back.points(way) - x, axis=1).max() < 0.5 * np.linalg.norm(way - x, axis=1).max()
    same = medfm.register(fixed, fixed, model=model)
    assert np.abs(same.points(x) - x).max() < 1e-4
    closer = medfm.register(moving, moving, model=model, optimise=True)
    assert np.abs(closer.points(x) - x).max() < 0.5


def test_further_rounds_keep_the_field_symmetric_and_on_the_scans_own_grid():
    torch.manual_seed(0)
    model = Registrar(
        encoder={"name": "conv", "inputs": 2, "channels": [4, 8, 8], "strides": [1, 2, 2], "convs": 1},
        head={"level": 0}, prepare={"intensity": "zscore"}, symmetric=True, shrink=2, rounds=2,
    ).eval()  # fmt: skip
    torch.nn.init.normal_(model.head.decoder.logits[0].weight, std=0.3)
    a, b = torch.randn(2, 1, 1, 16, 24, 16)
    there, back = model(a, b), model(b, a)
    assert there.shape == (1, 3, 8, 12, 8)
    assert torch.allclose(there, -back, atol=1e-5)
    model.rounds = 1
    assert not torch.allclose(model(a, b), there, atol=1e-2)  # the second look saw something else
    a, b = torch.randn(2, 1, 1, 15, 22, 17)
    sizes = []
    model.encoder.register_forward_hook(lambda module, given, _: sizes.append(given[0].shape[2:]))
    u = model.displacement(a, b, spacing=torch.ones(1, 3))
    assert u.shape == (1, 3, 15, 22, 17)
    assert set(sizes) == {(8, 11, 9)}  # no margin to whole strides
    moved = model.head.displacement(torch.full((1, 3, 8, 8, 8), 0.1), (16, 16, 16), finer=model.shrink)
    assert torch.allclose(moved, torch.tensor(0.2))  # in voxels of half the size
    with pytest.raises(ConfigError, match="symmetric"):
        Registrar(encoder=model.settings["encoder"], head={}, prepare={"intensity": "zscore"}, rounds=2)


def test_a_guide_is_read_beside_the_pictures_and_saved_with_the_network(tmp_path):
    torch.manual_seed(0)
    seen = {"encoder": {"name": "conv", "channels": [4, 8]}, "head": {}, "prepare": {"intensity": "zscore"}}
    guide = {**seen, "labels": ["front", "back"], "patch": [16, 16, 16]}
    arguments = {"head": {"level": 1}, "start": "header", "prepare": {"intensity": "zscore"}, "symmetric": True}
    encoder = {"name": "conv", "inputs": 6, "channels": [4, 8, 8], "convs": 1}
    model = Registrar(encoder=encoder, guide=guide, **arguments).eval()
    torch.nn.init.normal_(model.head.decoder.logits[0].weight, std=0.2)
    assert not any(p.requires_grad for p in model.guide.parameters())
    model.save(tmp_path)
    again = medfm.load_registrar(tmp_path)
    moving, fixed = scan(head()), scan(head(seed=1))
    x = corners(fixed)
    ways = [medfm.register(moving, fixed, model=m).points(x) for m in (model, again)]
    assert np.abs(ways[0] - ways[1]).max() < 0.05  # half precision
    optimised = medfm.register(moving, fixed, model=model, optimise=True)
    assert np.abs(optimised.points(x) - ways[0]).max() > 0.01
    with pytest.raises(ConfigError, match="the guide reads scans as"):
        Registrar(encoder=encoder, guide={**guide, "prepare": {"intensity": "range"}}, **arguments)


def test_places_keep_their_precision_where_the_machine_computes_in_half(monkeypatch):
    model = small(start="header")
    torch.nn.init.normal_(model.head.decoder.logits[0].weight, std=0.2)
    a, b = torch.randn(2, 1, 1, 16, 24, 16)
    ways, kinds = [], set()
    model.encoder.stages[0].register_forward_hook(lambda module, _, y: kinds.add(y.dtype))
    for able in (False, True):
        monkeypatch.setattr(half, "_computes_half", lambda able=able: able)
        ways.append(model.displacement(a, b, spacing=torch.ones(1, 3)))
    assert kinds == {torch.float32, torch.bfloat16}
    assert all(way.dtype == torch.float32 for way in ways)
    assert 0 < (ways[0] - ways[1]).abs().max() < 0.1 * ways[0].abs().max()


def test_a_start_leaves_the_guide_that_the_recipe_gave(tmp_path):
    torch.manual_seed(0)
    seen = {"encoder": {"name": "conv", "channels": [4, 8]}, "head": {}, "prepare": {"intensity": "zscore"}}
    guides = [{**seen, "labels": ["a"], "patch": [16] * 3, "head": {"convs": n}} for n in (1, 2)]
    encoder = {"name": "conv", "inputs": 4, "channels": [4, 8, 8], "convs": 1}
    old, new = (Registrar(encoder=encoder, head={"level": 1}, prepare=seen["prepare"], guide=g) for g in guides)
    old.save(tmp_path)
    own = {name: tensor.clone() for name, tensor in new.guide.state_dict().items()}
    assert start_from(new, tmp_path) == []
    assert all(torch.equal(own[name], tensor) for name, tensor in new.guide.state_dict().items())
    for (name, a), b in zip(new.encoder.named_parameters(), old.encoder.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3, msg=name)  # half precision


def test_networks_are_used_where_they_fit():
    with pytest.raises(DataError, match="was trained on 4 x 4 x 4 mm"):
        medfm.register(scan(head()), scan(head()), model=small(about={"extent mm": [4, 4, 4]}))
    with pytest.raises(ConfigError, match="needs model"):
        medfm.register(scan(head()), scan(head()), method="network")


def write_set(folder: Path, count: int = 6) -> None:
    """A Decathlon data set of moved and bent heads with two labels."""
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    rows, plain = [], scan(head())
    parts = np.zeros(SHAPE, np.uint8)
    parts[6:12, 8:16, 8:18], parts[12:16, 8:16, 8:18] = 1, 2
    for number in range(count):
        way = Alignment(movement(number - 2, (number - 2.0, 0, 0)))
        name = f"case_{number}.nii.gz"
        way.warp(plain, plain).write(folder / "imagesTr" / name)
        way.warp_mask(Mask(parts, plain.affine), plain).write(folder / "labelsTr" / name)
        rows.append({"image": f"imagesTr/{name}", "label": f"labelsTr/{name}"})
    about = {"labels": {"0": "background", "1": "front", "2": "back"}, "training": rows}
    (folder / "dataset.json").write_text(json.dumps(about))


def write_pairs(folder: Path) -> Path:
    rows = [
        {"moving": f"imagesTr/case_{m}.nii.gz", "fixed": f"imagesTr/case_{f}.nii.gz",
         "moving_labels": f"labelsTr/case_{m}.nii.gz", "fixed_labels": f"labelsTr/case_{f}.nii.gz"}
        for m, f in ((0, 5), (4, 1))
    ]  # fmt: skip
    (folder / "points.csv").write_text("fx,fy,fz,mx,my,mz\n0,0,0,3,4,0\n")
    rows[0]["points"] = "points.csv"
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "pairs.jsonl"


def test_what_training_leaves_can_be_loaded(tmp_path):
    from medfm.config import load_recipe
    from medfm.train.loop import train

    write_set(tmp_path / "set")
    changes = [
        f"data.train={tmp_path / 'set'}", "data.hold=0.34", "objective.patch=[16, 16, 16]", "objective.checked=2",
        "objective.model.encoder.channels=[4, 8, 8]", "objective.model.encoder.strides=[1, 2, 2]",
        "objective.model.encoder.convs=1", "train.epochs=1",
    ]  # fmt: skip
    train(load_recipe("registration/diffeomorphic", changes), output=tmp_path / "run")
    entry = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert np.isfinite(entry["loss"])
    assert 0 < entry["before"] <= 1
    model = medfm.load_registrar(tmp_path / "run")
    assert len(model.about["held out"]) == 2
    with pytest.raises(medfm.errors.UnknownName, match="kind 'register'"):
        medfm.load_segmenter(tmp_path / "run")


def test_an_evaluation_measures_before_and_after(tmp_path):
    write_set(tmp_path)
    pairs = write_pairs(tmp_path)
    metrics = evaluate_register(
        lambda m, f: iterate(m, f, method="rigid"), pairs, output=tmp_path / "out", name="rigid", labels={1: "front"}
    )
    assert metrics["overall"]["value"] > metrics["before"]["overall"]["value"] + 0.1
    assert metrics["folding_percent"]["value"] == 0
    assert metrics["target_error_before_mm"]["value"] == 5
    assert metrics["seconds"]["n"] == 2
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics
    for number in range(2):
        Alignment(np.eye(4)).write(tmp_path / "others" / f"{number:04d}.h5")
    still = evaluate_register(
        read_alignments(tmp_path / "others", 2), pairs, output=tmp_path / "still", name="still"
    )  # fmt: skip
    assert still["overall"] == still["before"]["overall"]
    assert still["seconds"]["n"] == 0
    assert set(still["classes"]) == {"1", "2"}


def test_files_of_pairs_are_checked(tmp_path):
    file = tmp_path / "pairs.jsonl"
    for text, message in (
        ("", "no pairs"), ('{"moving": "a"}', "expected moving and fixed"), ("3", "line 1"),
        ('{"moving": "a.nii", "fixed": "b.nii"}', "no such file"),
    ):  # fmt: skip
        file.write_text(text)
        with pytest.raises(DataError, match=message):
            read_pairs(file)


def test_pairs_are_drawn_evenly():
    drawn = draw_pairs(5, 12, seed=0)
    assert len(set(drawn)) == 12
    assert all(m != f for m, f in drawn)
    assert len(draw_pairs(3, 100, seed=0)) == 6


class Bands(Segmenter):
    """Takes the greys 40, 80, ... for the structures 1, 2, ..."""

    def label(self, grid: Grid, *, flip: bool = False) -> np.ndarray:
        return (grid.numbers()[0] * 255 / 40).round().numpy().astype(np.uint8)


def test_structures_bring_two_heads_onto_each_other_without_looking_at_their_contrast():
    model = Bands(
        encoder={"name": "conv", "channels": [4, 4]}, head={}, labels=list("abcde"), patch=[8, 8, 8],
        prepare={"spacing": [3.0] * 3, "intensity": "range"},
    )  # fmt: skip
    places = np.stack(np.meshgrid(*[np.arange(n) for n in (28, 32, 36)], indexing="ij"), -1)
    values = np.zeros((28, 32, 36), np.uint8)
    for number, centre in enumerate(((8, 8, 8), (20, 9, 12), (9, 22, 14), (18, 20, 26), (12, 14, 25)), 1):
        values[(((places - centre) / (3, 4, 5)) ** 2).sum(-1) < 1] = 40 * number
    fixed = Scan.from_array(values, affine=np.diag([3.0, 3, 3, 1]))
    wave = np.sin(places / 6.0).transpose(3, 0, 1, 2).astype(np.float32)
    way = Alignment(np.diag([1.1, 0.95, 1.0, 1.0]), 6 * wave[::-1].copy(), fixed.affine)
    moving = replace(fixed, data=Alignment(np.linalg.inv(way.matrix), -way.field, fixed.affine).warp_mask(
        Mask(values, fixed.affine), fixed).array[None])  # fmt: skip

    def overlap(found: Alignment) -> float:
        there = found.warp_mask(Mask(moving.data[0], moving.affine), fixed).array
        return float((there == values)[values > 0].mean())

    found = match(moving, fixed, model=model)
    assert overlap(found) > 0.98 > 0.96 > overlap(Alignment(found.matrix)) > overlap(Alignment(np.eye(4)))
    assert found.jacobian().min() > 0
    with pytest.raises(DataError, match="found 1 structures"):
        match(moving, replace(fixed, data=np.where(values == 40, values, 0).astype(np.uint8)[None]), model=model)
