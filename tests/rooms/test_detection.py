"""Detection: boxes come back where they were put, in every layout and space; tiles count once; empty scans teach."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_recipes import SMALL, Made, boxed_pictures

import medfm
from medfm.config import build, load_recipe
from medfm.data.boxes import both_boxes, find_boxes
from medfm.detector import Detector, load_detector
from medfm.errors import AdapterMismatch, ConfigError, DataError, UnknownName
from medfm.evaluate.detect import evaluate_detect
from medfm.grid import GridPrepare
from medfm.heads.detect import Dense
from medfm.image.boxes import grid_box, move_boxes, sample_boxed, scan_box
from medfm.image.marked import marked_picture
from medfm.metrics import at_threshold, average_precision, froc, match_boxes
from medfm.nn.anchors import decode_boxes, encode_boxes, grid_anchors, linked, suppress
from medfm.objectives.detection import DenseLoss
from medfm.predict.detecting import box_size
from medfm.scan import Box, Scan
from medfm.stored import start_from
from medfm.train.loop import train


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return boxed_pictures(tmp_path_factory.mktemp("boxes"), count=32)


@pytest.fixture(scope="module")
def trained(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small detector that has learned squares and bars."""
    folder = tmp_path_factory.mktemp("detector")
    small = [
        *SMALL["detection"](Made(Path(), Path(), Path(), folder / "made")), f"data={{train: '{pictures}', hold: 0.25}}",
        "train.epochs=10", "train.rate=1.0e-2", "train.average=0.8", "objective.checked=2", "objective.vary=0",
        "objective.flips=''", "objective.repeats=2", "objective.prepare={channels: 3, intensity: range}",
        "objective.model={encoder: {name: conv, ndim: 2, inputs: 3, channels: [8, 16, 32], convs: 1}, "
        "head: {levels: [1, 2], sizes: [[12], [24]], width: 16, convs: 1}}",
    ]  # fmt: skip
    return train(load_recipe("detection/cells", small), output=folder / "run")


def test_it_finds_what_it_learned_on_pictures_it_never_saw(trained: Path, pictures: Path, tmp_path: Path) -> None:
    metrics = evaluate_detect(load_detector(trained), pictures, output=tmp_path, held_out=True, resamples=20)
    assert metrics["ap50"]["value"] > 0.6 > metrics["mean_place"]["value"]
    assert metrics["exchanged"]["ap50"]["value"] < 0.3  # the boxes of one picture are not there on the next
    assert metrics["ap50"]["n"] == sum(row["ap50"]["n"] for row in metrics["classes"].values())
    assert metrics["ap"]["low"] <= metrics["ap"]["value"] <= metrics["ap"]["high"]
    assert {"froc", "cpm", "overall"} <= set(metrics)
    assert len((tmp_path / "cases.jsonl").read_text().splitlines()) == 8


def test_a_model_saved_and_loaded_says_the_same(trained: Path, pictures: Path, tmp_path: Path) -> None:
    model = load_detector(trained)
    model.save(tmp_path)
    scan = Scan.read(pictures.parent / "0.png")
    one, other = (medfm.detect(m, scan, threshold=0.01) for m in (model, load_detector(tmp_path)))
    assert [b.to_dict() for b in one] == [b.to_dict() for b in other] and one
    assert box_size(scan, one[0])[1] == "pixels"
    assert marked_picture(scan, one).shape == (640, 640, 3)


def test_training_goes_on_from_a_trained_detector(trained: Path, pictures: Path, tmp_path: Path) -> None:
    about = json.loads((trained / "medfm.json").read_text())
    model = json.dumps({"encoder": about["encoder"], "head": about["head"]})
    recipe = ["objective.prepare={channels: 3, intensity: range}", "objective.patch=[1, 64, 64]", "objective.tile=null",
              f"objective.model={model}", f"data={{train: '{pictures}', hold: 0.25}}", "train.epochs=1",
              "train.rate=1.0e-4", "train.average=0"]  # fmt: skip
    scores = {}
    for start in ("", str(trained)):
        run = train(
            load_recipe("detection/cells", [*recipe, f"train.start='{start}'"]), output=tmp_path / f"run{start == ''}"
        )
        scores[start] = json.loads((run / "log.jsonl").read_text())["score"]
    assert scores[str(trained)] > 0.6 > 0.3 > scores[""]
    assert json.loads((run / "medfm.json").read_text())["about"]["start"] == trained.name


def test_a_start_keeps_what_fits_and_refuses_other_parts(trained: Path) -> None:
    settings = {k: v for k, v in load_detector(trained).settings.items() if k != "about"}
    other = Detector(**{**settings, "labels": ["cell"]})
    differing = start_from(other, trained)
    assert differing and all("head" in name for name in differing)
    first, given = other.encoder.state_dict(), load_detector(trained).encoder.state_dict()
    assert all(torch.equal(first[name], given[name]) for name in given)
    deeper = Detector(**{**settings, "head": {**settings["head"], "convs": 2}})
    with pytest.raises(AdapterMismatch, match="other parts"):
        start_from(deeper, trained)


def test_a_larger_picture_gives_each_thing_once(trained: Path) -> None:
    model = load_detector(trained)
    pixels = np.random.default_rng(0).integers(20, 60, (160, 150), dtype=np.uint8)
    places = [(10, 20), (57, 58), (90, 110), (120, 30)]
    for x, y in places:
        pixels[y : y + 14, x : x + 14] = 200
    boxes = [b for b in medfm.detect(model, Scan.from_array(pixels), threshold=0.3) if b.label == "square"]
    middles = [((b.low[0] + b.high[0]) / 2 - 7, (b.low[1] + b.high[1]) / 2 - 7) for b in boxes]
    for x, y in places:
        assert sum(math.hypot(x - a, y - b) < 5 for a, b in middles) == 1


def test_boxes_survive_the_way_to_the_grid_and_back() -> None:
    turned = np.array([[0, -2.0, 0, 30], [1.5, 0, 0, -9], [0, 0, 4.0, 7], [0, 0, 0, 1]])  # rows along the patient's x
    scan = Scan.from_array(np.zeros((10, 20, 30), np.float32), affine=turned)
    box = Box("nodule", *[tuple((scan.affine[:3] @ [*p, 1]).tolist()) for p in ((2.5, 3.5, 1.5), (9.5, 8.5, 5.5))])
    edges = grid_box(scan, box, (5, 40, 60))
    back = scan_box(scan, edges, (5, 40, 60), label="nodule", score=0.5)
    np.testing.assert_allclose([back.low, back.high], [box.low, box.high], atol=1e-6)
    picture = Scan.from_array(np.zeros((40, 50), np.uint8))
    flat = scan_box(
        picture, grid_box(picture, Box("a", (5, 6), (20, 16)), (1, 80, 100)), (1, 80, 100), label="a", score=1
    )
    assert (flat.low, flat.high) == ((5, 6), (20, 16))


def test_boxes_of_neighbouring_slices_become_one_through_them() -> None:
    def flat(slice_: int, top: float, label: int, score: float) -> tuple[list[float], float, int]:
        return [slice_, top, 10.0, slice_ + 1, top + 10, 20.0], score, label

    rows = [flat(0, 0, 0, 0.4), flat(1, 1, 0, 0.9), flat(3, 2, 0, 0.5),  # one slice lacks it
            flat(7, 2, 0, 0.3),  # too far away
            flat(1, 30, 0, 0.6), flat(2, 1, 1, 0.7)]  # another place, another label  # fmt: skip
    boxes, scores, labels = (torch.tensor(part) for part in zip(*rows, strict=True))
    whole, best, kinds = linked(boxes, scores, labels, overlap=0.5)
    assert whole.tolist() == [
        [0, 0, 10, 4, 12, 20], [2, 1, 10, 3, 11, 20], [1, 30, 10, 2, 40, 20], [7, 2, 10, 8, 12, 20],
    ]  # fmt: skip
    assert best.tolist() == pytest.approx([0.9, 0.7, 0.6, 0.3]) and kinds.tolist() == [0, 1, 0, 0]
    empty = linked(boxes[:0], scores[:0], labels[:0], overlap=0.5)
    assert [len(part) for part in empty] == [0, 0, 0]


@pytest.mark.parametrize("spacing", [(1.5, 2.0, 4.0), (1.5, 4.0, 2.0), (4.0, 1.5, 2.0)])  # axial, coronal, sagittal
def test_a_box_on_displayed_slices_lies_on_what_is_seen_there(spacing: tuple[float, float, float]) -> None:
    data = np.zeros((10, 20, 30), np.float32)
    data[2:5, 4:9, 3:10] = 1
    scan = Scan.from_array(data, affine=np.diag([*spacing, 1.0]))
    kind = GridPrepare(displayed=True, intensity="range", spacing=None)
    grid = kind(scan)
    low, high = (tuple((scan.affine[:3] @ [*p, 1]).tolist()) for p in ((2.5, 3.5, 1.5), (9.5, 8.5, 4.5)))
    edges = grid_box(scan, Box("nodule", low, high), grid.shape, displayed=True)
    inside = tuple(slice(round(a), round(b)) for a, b in zip(edges[:3], edges[3:], strict=True))
    assert grid.array[0][inside].all() and grid.array[0].sum() == grid.array[0][inside].sum()
    back = scan_box(scan, edges, grid.shape, label="nodule", score=0.5, displayed=True)
    np.testing.assert_allclose([back.low, back.high], [low, high], atol=1e-6)
    assert back.slice == scan_box(scan, grid_box(scan, back, (10, 20, 30)), (10, 20, 30), label="a", score=1).slice


def test_anchors_and_deltas_undo_each_other() -> None:
    generator = torch.Generator().manual_seed(0)
    low, sides = torch.rand(50, 3, generator=generator) * 30, torch.rand(50, 3, generator=generator) * 20 + 1
    boxes = torch.cat([low, low + sides], 1)
    (anchors,) = grid_anchors([(2, 5, 5)], [(4, 8, 8)], [[[4.0, 12.0, 12.0]]])
    assert (decode_boxes(encode_boxes(boxes, anchors), anchors) - boxes).abs().max() < 1e-4
    np.testing.assert_allclose(anchors[0], [0, -2, -2, 4, 10, 10])
    flat = torch.tensor([[0, 1.0, 1, 1, 9, 9], [0, 2.0, 1, 1, 9, 9], [0, 20.0, 20, 1, 29, 29]])
    kept = suppress(flat, torch.tensor([0.5, 0.9, 0.1]), torch.tensor([0, 0, 0]), overlap=0.5, most=10)
    assert kept.tolist() == [1, 2]
    thick = flat * torch.tensor([1, 1, 1, 5, 1, 1])
    kept = suppress(thick, torch.tensor([0.5, 0.9, 0.1]), torch.tensor([0, 0, 0]), overlap=0.5, most=10)
    assert kept.tolist() == [1, 2]


def test_boxes_of_many_slices_are_suppressed_in_their_own_slice_alone() -> None:
    """A detector of slices has thousands in a volume; compared with each other one by one they took minutes."""
    from monai.data.box_utils import batched_nms

    generator = torch.Generator().manual_seed(0)
    low = torch.rand(400, 2, generator=generator) * 40
    first = torch.randint(-1, 5, (400, 1), generator=generator).float()
    boxes = torch.cat([first, low, first + 1, low + 5 + torch.rand(400, 2, generator=generator) * 20], 1)
    scores, labels = torch.rand(400, generator=generator), torch.randint(3, (400,), generator=generator)
    kept = suppress(boxes, scores, labels, overlap=0.3, most=400)
    assert kept.tolist() == torch.as_tensor(batched_nms(boxes, scores, labels, 0.3, max_proposals=400)).tolist()
    assert 18 < len(kept) < 350


def test_thick_boxes_are_suppressed_as_monai_does() -> None:
    from monai.data.box_utils import batched_nms

    generator = torch.Generator().manual_seed(0)
    low = torch.rand(300, 3, generator=generator) * 30
    boxes = torch.cat([low, low + 2 + torch.rand(300, 3, generator=generator) * 20], 1)
    scores, labels = torch.rand(300, generator=generator), torch.randint(2, (300,), generator=generator)
    for most in (300, 20):
        kept = suppress(boxes, scores, labels, overlap=0.1, most=most)
        assert kept.tolist() == torch.as_tensor(batched_nms(boxes, scores, labels, 0.1, max_proposals=most)).tolist()
    assert 20 < len(suppress(boxes, scores, labels, overlap=0.1, most=300)) < 200


def test_what_is_mirrored_has_its_boxes_mirrored() -> None:
    x = torch.zeros(1, 1, 20, 30)
    x[0, 0, 4:9, 3:13] = 1
    boxes = torch.tensor([[0.0, 4, 3, 1, 9, 13]])
    matrix = torch.diag(torch.tensor([1.0, 1, -1]))
    patch, moved, kept = sample_boxed(x, boxes, centre=(0, 9.5, 14.5), patch=(1, 20, 30), matrix=matrix)
    torch.testing.assert_close(patch, x.flip(3), atol=1e-4, rtol=0)
    assert kept.tolist() == [0]
    np.testing.assert_allclose(moved, [[0, 4, 17, 1, 9, 27]], atol=1e-4)
    half = move_boxes(boxes, centre=(0, 9.5, 14.5), patch=(1, 20, 30), matrix=torch.diag(torch.tensor([1.0, 2, 2])))
    np.testing.assert_allclose(half[0, 4:] - half[0, 1:3], [2.5, 5], atol=1e-4)


def test_detectors_of_slices_learn_from_every_slice_of_a_thick_box(tmp_path: Path) -> None:
    """A slice is a twelfth of a box of twelve: counted as a share, such boxes were dropped, and nothing was learned."""
    values = np.random.default_rng(0).normal(size=(1, 24, 32, 32)).astype(np.float32)
    values[0, 6:18, 10:22, 10:22] = np.arange(6, 18)[:, None, None] * 10
    scan = Scan.from_array(values, affine=np.eye(4), modality="MR", units="a.u.")
    scan.write(tmp_path / "brick.nii.gz")
    box = scan_box(scan, [6, 10, 10, 18, 22, 22], (24, 32, 32), label="brick", score=1)
    row = {"image": "brick.nii.gz", "boxes": [{"label": "brick", "low": box.low, "high": box.high}]}
    data = {part: str(tmp_path / f"{part}.jsonl") for part in ("train", "validate")}
    for part, file in data.items():
        Path(file).write_text(json.dumps({**row, "patient": part}) + "\n")
    node = {
        "name": "detection", "patch": [1, 32, 32], "batch": 4, "repeats": 10, "around": 1.0, "vary": 0, "prepare": {},
        "model": {"encoder": {"name": "conv", "ndim": 2, "inputs": 1, "channels": [4, 8], "convs": 1},
                  "head": {"levels": [1], "sizes": [[12]], "width": 8, "convs": 1}},
    }  # fmt: skip
    objective = build("objectives", node, data=data, seed=0)
    seen = [objective.collate([k]) for k in range(10)]
    assert all((one["labels"] == 0).sum() == 1 for one in seen)
    brightest = {round(float(one["x"].max()), 3) for one in seen}
    assert len(brightest) > 4  # other slices of the brick
    whole = objective.cases[0].x.float().amax((0, 2, 3))
    assert all(min(abs(value - float(own)) for own in whole) < 0.01 for value in brightest)  # and no mean of two


@pytest.mark.parametrize("loss", [{}, {"match": "iou", "classes": "hard", "corners": "l1"}, {"match": "iou"}])
def test_scans_without_a_box_teach_too(loss: dict[str, object]) -> None:
    anchors = grid_anchors([(4, 4, 4)], [(4, 4, 4)], [[[4.0, 4, 4], [8.0, 8, 8]]])
    logits, deltas = torch.zeros(2, 128, 1, requires_grad=True), torch.zeros(2, 128, 6, requires_grad=True)
    dense = Dense(logits, deltas, anchors, [], [(4, 4, 4)])
    empty = DenseLoss(**loss)(dense, torch.zeros(2, 1, 6), torch.full((2, 1), -1), per_cell=2)
    sum(empty).backward()
    assert empty[0] > 0 and empty[1] == 0 and logits.grad.abs().sum() > 0 and (logits.grad >= 0).all()
    boxes = torch.tensor([[[4.0, 4, 4, 12, 12, 12]], [[0.0, 0, 0, 0, 0, 0]]])
    parts = DenseLoss(**loss)(dense, boxes, torch.tensor([[0], [-1]]), per_cell=2)
    assert all(p.isfinite() for p in parts) and parts[1] > 0


def test_the_figures_count_what_they_say() -> None:
    boxes = torch.tensor([[0.0, 0, 0, 1, 10, 10], [0.0, 20, 20, 1, 30, 30]])
    labels = torch.tensor([0, 1])
    perfect = match_boxes([(boxes, torch.tensor([0.9, 0.8]), labels)], [(boxes, labels)], overlaps=[0.5] * 10)
    assert average_precision(perfect, ["a", "b", "never drawn"])["ap50"] == pytest.approx(1.0)
    assert froc(perfect) == ([1.0] * 7, 1.0)
    found = (boxes[[0, 0]] + torch.tensor([[0.0], [40.0]]), torch.tensor([0.5, 0.9]), torch.tensor([0, 0]))
    one = match_boxes([found, found], [(boxes, labels)] * 2, overlaps=[0.5] * 10)
    assert average_precision(one, ["a", "b"])["classes"] == pytest.approx({"a": 0.5, "b": 0.0})
    assert at_threshold(one, 0.4) == (0.5, 0.5) and at_threshold(one, 0.6) == (0.0, 0.0)
    assert at_threshold(perfect, 0.85) == (1.0, 0.5) and math.isnan(at_threshold(perfect, 0.95)[0])
    sensitivities, cpm = froc(one)  # a false box outranks each hit: nothing below one false a scan, half above
    assert sensitivities[-1] == 0.5 and sensitivities[0] < 0.1 and 0 < cpm < 0.5


def test_every_layout_gives_the_same_boxes(tmp_path: Path) -> None:
    for folder in ("JPEGImages", "Annotations", "images/x"):
        (tmp_path / folder).mkdir(parents=True)
    picture = Image.fromarray(np.zeros((40, 50), np.uint8))
    for name in ("JPEGImages/one.png", "images/x/image.png"):
        picture.save(tmp_path / name)
    box = "<bndbox><xmin>5</xmin><ymin>6</ymin><xmax>20</xmax><ymax>16</ymax></bndbox>"
    (tmp_path / "Annotations/one.xml").write_text(
        f"<annotation><filename>one.png</filename><object><name>cell</name>{box}</object></annotation>"
    )
    (tmp_path / "images/x/boxes.json").write_text(json.dumps([{"label": "cell", "xywh": [5, 6, 15, 10]}]))
    (tmp_path / "coco.json").write_text(json.dumps({
        "images": [{"id": 7, "file_name": "JPEGImages/one.png"}, {"id": 8, "file_name": "images/x/image.png"}],
        "annotations": [{"image_id": 7, "category_id": 3, "bbox": [5, 6, 15, 10]}],
        "categories": [{"id": 3, "name": "cell"}],
    }))  # fmt: skip
    (tmp_path / "rows.jsonl").write_text(json.dumps({"image": "images/x/image.png", "question": "?"}) + "\n")
    (tmp_path / "own.jsonl").write_text(
        json.dumps({"image": "JPEGImages/one.png", "boxes": [{"label": "cell", "low": [5, 6], "high": [20, 16]}]})
    )
    slake = tmp_path / "slake"
    (tmp_path / "images").rename(slake.with_name("moved"))
    slake.mkdir()
    slake.with_name("moved").rename(slake / "images")
    (tmp_path / "rows.jsonl").rename(slake / "rows.jsonl")
    for data in (tmp_path, tmp_path / "coco.json", tmp_path / "own.jsonl", slake, slake / "rows.jsonl"):
        found = find_boxes(data)
        assert found.counts == {"cell": 1}, data
        assert found.scans[0].boxes == (Box("cell", (5, 6), (20, 16)),)
    assert len(find_boxes(tmp_path / "coco.json").scans) == 2  # the picture without a box is kept


def test_wrong_input_is_named(trained: Path, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="expected one of kind 'detect'"):
        load_detector("default")
    with pytest.raises(DataError, match="no data set with boxes"):
        find_boxes(tmp_path)
    with pytest.raises(ConfigError, match="no key of data"):
        both_boxes({"train": pictures, "hold": 0.2, "shuffle": 1}, GridPrepare(), seed=0)
    with pytest.raises(DataError, match="no class in common"):
        evaluate_detect(load_detector(trained), pictures, output=tmp_path, least=1000)


def test_a_model_on_the_shared_encoder_refuses_another_eye(tmp_path: Path) -> None:
    model = Detector(
        encoder={"name": "shared", "tune": "none"}, head={"levels": [4], "sizes": [[32]], "width": 16, "convs": 1},
        labels=["a"], prepare={"size": 64, "channels": 3, "intensity": "range"}, patch=[1, 64, 64],
    )  # fmt: skip
    model.save(tmp_path)
    assert (tmp_path / "detect.safetensors").stat().st_size < 1e5  # the eye stays where it is
    assert load_detector(tmp_path).settings["encoder"]["eye"]
    about = json.loads((tmp_path / "medfm.json").read_text())
    about["encoder"]["eye"] = "0" * 64
    (tmp_path / "medfm.json").write_text(json.dumps(about))
    with pytest.raises(AdapterMismatch, match="was trained on the encoder 0000"):
        load_detector(tmp_path)
    assert build(
        "heads", {"name": "detect", "levels": [0], "sizes": [[8]]}, channels=[4], strides=[(1, 2, 2)], classes=1
    )
