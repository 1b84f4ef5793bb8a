"""Segmentation: tiles give what the whole gives, masks lie where the scan lies, figures count what they say."""

from __future__ import annotations

import itertools
import json
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_recipes import SMALL, Made, labelled_volumes

import medfm
from medfm import assets
from medfm.config import load_recipe
from medfm.encoders.shared import SharedEncoder
from medfm.errors import AdapterMismatch, ConfigError, DataError, UnknownName
from medfm.evaluate.folds import cross_validate
from medfm.evaluate.overlap import agreement
from medfm.evaluate.segment import compare_masks, evaluate_segment
from medfm.grid import GridPrepare
from medfm.heads.structures import StructureHead
from medfm.image.patches import random_bend, random_map, sample_patch, shaded
from medfm.losses import SegmentLoss, deep_loss, drawn_together
from medfm.metrics import label_dice
from medfm.nn import half
from medfm.nn.tiles import label_tiles, starts
from medfm.predict.segmenting import asymmetry
from medfm.scan import Scan
from medfm.segmenter import Segmenter, grow, load_segmenter, places
from medfm.train.loop import train


@pytest.fixture(scope="module")
def balls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled_volumes(tmp_path_factory.mktemp("balls"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small U-Net that has learned the balls."""
    folder = tmp_path_factory.mktemp("segmenter")
    made = Made(Path(), Path(), Path(), folder / "made")
    small = [
        *SMALL["supervised"](made), "objective.model.encoder={name: conv, ndim: 3, channels: [8, 16, 32], convs: 1}",
        "objective.model.head={convs: [1, 1], deep: 1}",
        "objective.repeats=4", "train.epochs=12", "train.rate=5.0e-3", "train.average=0.8",
        "objective.vary=0", "objective.batch=2", "objective.patch=[24, 24, 24]", "objective.tile=[24, 24, 24]",
        "objective.prepare.size=0",
    ]  # fmt: skip
    return train(load_recipe("segmentation/hippocampus", small), output=folder / "run")


def test_turns_about_one_axis_keep_its_slices_in_one_plane() -> None:
    generator = torch.Generator().manual_seed(0)
    spacing = torch.tensor([3.0, 1.0, 1.0])
    maps = [random_map((8, 8, 8), spacing, generator, degrees=[0, 20, 0]) for _ in range(5)]
    for matrix in maps:
        assert matrix[1, 0] == matrix[0, 1] == matrix[1, 2] == matrix[2, 1] == 0  # what is one coronal slice stays one
        assert matrix[0, 2] != 0 and matrix[2, 0] != 0
    assert (random_map((8, 8, 8), spacing, generator, degrees=20) != 0).all()


def test_bent_patches_take_their_labels_along() -> None:
    generator = torch.Generator().manual_seed(0)
    line = torch.linspace(0, 1, 32)
    x = (line[:, None, None] + line[:, None] * 2 + line * 4)[None]
    labels = (x[0] > 3.5).to(torch.uint8)
    spacing = torch.ones(3)
    straight = {"centre": [15.5] * 3, "patch": (24, 24, 24), "matrix": torch.eye(3), "classes": 2}
    for mm in (2.0, [0.0, 2.0, 0.0]):
        bend = random_bend((24, 24, 24), spacing, generator, mm=mm)
        seen, target = sample_patch(x, labels, **straight, bend=bend)
        assert not torch.equal(seen, sample_patch(x, labels, **straight)[0])
        assert ((seen[0] > 3.5) == (target == 1)).float().mean() > 0.98
    assert (bend[0] == 0).all() and (bend[2] == 0).all() and 0.5 < bend[1].std() < 2  # 2 mm at the points, less between
    near, far = (random_bend((24, 24, 24), spacing, generator, mm=2.0, apart=mm) for mm in (3.0, 12.0))
    assert near.diff(dim=3).abs().mean() > 2 * far.diff(dim=3).abs().mean()


def test_a_class_gets_its_own_shade_in_every_window() -> None:
    hu = torch.tensor([-1000.0, -100.0, 20.0, 60.0, 3000.0]).view(1, 1, 1, 1, 5)
    target = torch.tensor([1, 0, 1, 2, 2]).view(1, 1, 1, 5)
    ready = GridPrepare(intensity="windows", channels=3, windows=((40, 400), (-300, 1400), (400, 1400)))
    moved = hu + torch.tensor([0.0, 0.0, 40.0, -20.0, 0.0])  # ends of windows stay
    shown = [torch.cat([((x - low) / w).clamp(0, 1) for low, w in ((-160, 400), (-1000, 1400), (-300, 1400))], 1)
             for x in (hu, moved)]  # fmt: skip
    made = shaded(shown[0], target, torch.tensor([[0.7, 0.1, -0.05]]), ready.scales)
    torch.testing.assert_close(made, shown[1])


def test_the_loss_of_half_precision_is_summed_in_full() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 16, 16, 16, generator=generator).bfloat16()
    target = torch.randint(0, 3, (2, 16, 16, 16), generator=generator)
    torch.testing.assert_close(SegmentLoss()(logits, target), SegmentLoss()(logits.float(), target))


def test_half_precision_is_in_the_products_and_not_in_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[bool, set[torch.dtype]] = {True: set(), False: set()}

    def watch(objective: Any) -> None:
        objective.network.encoder.stages[0].register_forward_hook(
            lambda module, _, y: seen[module.training].add(y.dtype)
        )
        kept.append(objective)

    kept: list[Any] = []
    monkeypatch.setattr(half, "_computes_half", lambda: True)
    made = Made(Path(), Path(), Path(), tmp_path / "made")
    small = [*SMALL["supervised"](made), "train.half=true", "train.epochs=1"]
    train(load_recipe("segmentation/unet", small), output=tmp_path / "run", before=watch)
    assert seen == {True: {torch.bfloat16}, False: {torch.float32}}  # held-out scans are measured in full
    assert {p.dtype for p in kept[0].parameters()} == {torch.float32}


def test_it_finds_what_it_learned_on_cases_it_never_saw(trained: Path, balls: Path, tmp_path: Path) -> None:
    metrics = evaluate_segment(load_segmenter(trained), balls, output=tmp_path, held_out=True, resamples=50)
    assert metrics["overall"]["n"] == 2
    assert metrics["overall"]["value"] > 0.6
    cases = [json.loads(line) for line in (tmp_path / "cases.jsonl").read_text().splitlines()]
    assert {c["case"] for c in cases} == set(load_segmenter(trained).about["held out"])


def test_a_mask_lies_on_the_scans_own_grid(trained: Path, balls: Path) -> None:
    model = load_segmenter(trained)
    plain = Scan.read(balls / "imagesTr" / "case0.nii.gz")
    mask = medfm.segment(model, plain)
    assert mask.array.shape == plain.data.shape[1:]
    np.testing.assert_allclose(mask.affine, plain.affine)
    turned = nibabel.load(balls / "imagesTr" / "case0.nii.gz")
    flipped = nibabel.as_closest_canonical(turned).slicer[::-1]  # the same patient, stored from right to left
    nibabel.save(flipped, balls / "turned.nii.gz")
    again = medfm.segment(model, Scan.read(balls / "turned.nii.gz"))
    assert (again.array == mask.array).mean() > 0.999
    again.write(balls / "mask.nii.gz")  # voxel for voxel as the scan's file
    np.testing.assert_allclose(nibabel.load(balls / "mask.nii.gz").affine, flipped.affine)


def test_a_model_saved_and_loaded_says_the_same(trained: Path, balls: Path, tmp_path: Path) -> None:
    model = load_segmenter(trained)
    model.save(tmp_path)
    scan = Scan.read(balls / "imagesTr" / "case1.nii.gz")
    np.testing.assert_array_equal(medfm.segment(load_segmenter(tmp_path), scan).array, medfm.segment(model, scan).array)


@pytest.mark.parametrize("shape", [(5, 7, 9), (24, 24, 24), (33, 17, 50), (1, 40, 40)])
def test_a_scan_of_any_size_gets_a_mask_of_its_size(trained: Path, shape: tuple[int, int, int]) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    scan = Scan.from_array(values, affine=np.diag([1.0, 1.0, 4.0, 1.0]))
    assert medfm.segment(load_segmenter(trained), scan).array.shape == shape


def test_tiles_give_what_the_whole_gives() -> None:
    volume = torch.randn(3, 30, 41, 27, generator=torch.Generator().manual_seed(0))

    def whole(part: tuple[slice, slice, slice]) -> torch.Tensor:
        return volume[(slice(None), *part)].softmax(0)

    expected = volume.argmax(0).numpy()
    for patch in ((8, 16, 16), (30, 41, 27), (16, 64, 8), (1, 16, 16), (1, 64, 64)):
        found = label_tiles(whole, (30, 41, 27), patch=patch, classes=3)
        assert (found == expected).mean() > 0.999  # the sums are kept in half precision: near ties may fall either way
    few = label_tiles(whole, (30, 41, 27), patch=(8, 16, 16), classes=3, budget=1)  # strips of rows
    assert (few == expected).mean() > 0.999


@pytest.mark.parametrize(("size", "patch", "overlap"), [(10, 20, 0.5), (100, 32, 0.5), (33, 32, 0.25), (64, 32, 0.0)])
def test_tiles_reach_every_voxel(size: int, patch: int, overlap: float) -> None:
    covered = np.zeros(size, dtype=int)
    begun = starts(size, patch, overlap)
    for start in begun:
        covered[start : start + patch] += 1
    assert covered.min() >= 1 and begun[0] == 0 and begun[-1] + patch >= size
    assert all(b - a <= max(1, round(patch * (1 - overlap))) for a, b in itertools.pairwise(begun))


def test_perfect_masks_score_one_and_shifted_ones_less(balls: Path, tmp_path: Path) -> None:
    truth, shifted = balls / "labelsTr", tmp_path / "shifted"
    shifted.mkdir()
    for file in truth.iterdir():
        image = nibabel.load(file)
        nibabel.save(nibabel.Nifti1Image(np.roll(np.asarray(image.dataobj), 2, 0), image.affine), shifted / file.name)
    same = compare_masks(truth, truth, output=tmp_path / "a", resamples=20)
    moved = compare_masks(shifted, truth, output=tmp_path / "b", resamples=20)
    assert same["overall"]["value"] == 1.0 and same["hd95"]["value"] == 0.0
    assert moved["overall"]["value"] < 0.8 and 1.5 < moved["hd95"]["value"] < 2.5  # mm


def test_wrong_input_is_named(trained: Path, balls: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="expected one of kind 'segment'"):
        load_segmenter("default")
    with pytest.raises(DataError, match="no class in common"):
        evaluate_segment(load_segmenter(trained), balls, output=tmp_path, labels={1: "liver"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="lacks 6 of 6"):
        compare_masks(tmp_path / "empty", balls / "labelsTr", output=tmp_path)


def test_a_grown_model_starts_with_what_the_smaller_one_says() -> None:
    def model(*channels: int) -> Segmenter:
        return Segmenter(
            encoder={"name": "conv", "ndim": 3, "inputs": 4, "channels": list(channels), "down": "pool", "again": True},
            head={"deep": len(channels) - 2, "add": True}, labels=["a", "b"], prepare={}, patch=[16, 16, 16],
            places=True,
        ).eval()  # fmt: skip

    small, large = model(6, 8, 10), model(4, 6, 8, 10)
    x, spacing = torch.rand(1, 4, 16, 16, 16), torch.ones(1, 3)
    grow(large, small)
    coarse = small(torch.nn.functional.avg_pool3d(x, 2), spacing)[0]
    expected = torch.nn.functional.interpolate(coarse, scale_factor=2, mode="trilinear")
    torch.testing.assert_close(large(x, spacing)[0], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(AdapterMismatch):
        grow(large, large)


def test_every_tile_knows_where_it_lies() -> None:
    whole = places((6, 4, 5), (2.0, 1.0, 10.0))
    part = (slice(2, 5), slice(0, 4), slice(1, 3))
    torch.testing.assert_close(places((6, 4, 5), (2.0, 1.0, 10.0), part), whole[(slice(None), *part)])
    assert whole.mean((1, 2, 3)).abs().max() < 1e-6  # 0 is the middle
    assert whole[2, 0, 0].tolist() == pytest.approx([-0.2, -0.1, 0.0, 0.1, 0.2])  # dm


def test_deep_supervision_halves_the_weight_of_each_coarser_level() -> None:
    target = torch.randint(0, 2, (1, 8, 8, 8))
    levels = [torch.zeros(1, 2, *[size] * 3) for size in (8, 4)]
    assert deep_loss(lambda part, _: torch.tensor(float(part.shape[2])), levels, target) == pytest.approx((8 + 2) / 1.5)


def test_coarser_levels_are_held_against_labels_in_the_same_place() -> None:
    """They were nearly half a coarse voxel off: the first voxel of each cell was taken for all of it."""
    place = torch.arange(64).view(1, 1, 1, -1).expand(1, 1, 4, -1)  # each label is its column
    levels = [torch.zeros(1, 64, 1, size, 16 * size) for size in (4, 2, 1)]
    seen: list[torch.Tensor] = []
    deep_loss(lambda _, target: seen.append(target[0, 0, 0].float()) or torch.zeros(()), levels, place)  # type: ignore[func-returns-value]
    for level, found in enumerate(seen):
        middles = (torch.arange(len(found)) + 0.5) * 2**level - 0.5
        assert (found - middles).abs().max() <= 0.5  # of a fine voxel: no voxel lies in the middle of an even number


def test_folds_measure_each_scan_once_and_leave_an_ensemble(tmp_path: Path) -> None:
    made = Made(Path(), Path(), Path(), tmp_path / "made")
    small = [
        *SMALL["supervised"](made), "objective.model.encoder={name: conv, ndim: 3, channels: [4, 8], convs: 1}",
        "objective.model.head={convs: 1, deep: 0}", "objective.prepare.size=0", "train.epochs=2",
    ]  # fmt: skip
    recipe = load_recipe("segmentation/hippocampus", small)
    metrics = cross_validate(recipe, output=tmp_path / "run", folds=3)
    assert metrics["overall"]["n"] == 6 and "overall" in metrics["chosen"]
    cases = [json.loads(line)["case"] for line in (tmp_path / "run" / "cases.jsonl").read_text().splitlines()]
    assert len(set(cases)) == 6
    model = load_segmenter(tmp_path / "run")
    assert len(model.others) == 2 and model.largest == metrics["chosen"]["largest"]
    grid = model.preparation(Scan.read(tmp_path / "made" / "balls" / "imagesTr" / "case0.nii.gz"))
    part = (slice(0, 16), slice(0, 16), slice(0, 16))
    with torch.inference_mode():
        alone = [load_segmenter(tmp_path / "run" / f"fold{n}")._probabilities(grid, part, False) for n in range(3)]
        own = [m._probabilities(grid, part, False) for m in (model, *model.others)]
    torch.testing.assert_close(sum(own), sum(alone))
    held = [set(load_segmenter(tmp_path / "run" / f"fold{n}").about["held out"]) for n in range(3)]
    assert not held[0] & held[1] and len(held[0] | held[1] | held[2]) == 6
    with pytest.raises(ConfigError, match="folds"):
        cross_validate(recipe, output=tmp_path / "other", folds=9)


def test_figures_of_surfaces_come_without_warnings(recwarn: pytest.WarningsRecorder) -> None:
    found = np.zeros((8, 8, 8), np.uint8)
    found[2:6, 2:6, 2:6] = 1
    row = agreement(found, np.roll(found, 1, 0), spacing=(1.0, 1.0, 1.0), labels=["ball"], tolerance=1.0)["ball"]
    assert row["dice"] == pytest.approx(0.75) and row["hd95"] == 1
    assert not list(recwarn)


def test_mean_places_of_scans_of_two_shapes_lie_middle_on_middle() -> None:
    margins = runpy.run_path(str(assets.root() / "tasks" / "segmentation" / "mean_place.py"))["margins"]
    assert margins((3, 4, 8), (6, 4, 8)) == [(1, 2), (0, 0), (0, 0)]


def test_asymmetry_is_told_of_pairs_in_percent_of_their_mean() -> None:
    found = asymmetry({"left ball": 3.0, "right ball": 1.0, "core": 5.0, "left cube": 0.0, "right cube": 0.0})
    assert found == {"ball": 100.0}


def test_dice_leaves_classes_alone_that_no_voxel_is_of_where_it_is_told_to() -> None:
    target = torch.zeros(1, 4, 4, 4, dtype=torch.int64)
    for absent in (True, False):
        logits = torch.zeros(1, 3, 4, 4, 4, requires_grad=True)
        SegmentLoss(entropy=0.0, absent=absent)(logits, target).backward()
        assert logits.grad is not None and bool(logits.grad.any()) == absent


def test_of_maps_that_leave_classes_out_those_are_neither_taught_nor_missed() -> None:
    target = torch.zeros(2, 1, 4, 4, dtype=torch.int64)
    target[0, 0, :2], target[1, 0, :2] = 1, 2
    logits = torch.zeros(2, 4, 1, 4, 4, requires_grad=True)
    for entropy, dice in ((1.0, 0.0), (0.0, 1.0)):
        (slope,) = torch.autograd.grad(SegmentLoss(entropy=entropy, dice=dice, partial=True)(logits, target), logits)
        assert (slope[0, 2, 0, 2:] <= 0).all()  # of the first only class 1 is drawn: class 2 may be in the rest of it
        assert (slope[0, 1, 0, 2:] > 0).all() and (slope[0, 1, 0, :2] < 0).all()
        assert (slope[0, 2, 0, :2] > 0).all() and (slope[1, 2, 0, :2] < 0).all()  # what is drawn is nothing else
    found = np.array([[[1, 1, 2]]], np.uint8)
    drawn = np.array([[[1, 1, 0]]], np.uint8)
    for partial, second in ((True, None), (False, 0.0)):
        row = agreement(found, drawn, spacing=(1.0, 1.0, 1.0), labels=["a", "b"], partial=partial)["b"]
        scored = label_dice(torch.from_numpy(found), torch.from_numpy(drawn), 2, partial=partial)
        assert row["dice"] == second if second is not None else np.isnan(row["dice"])
        assert scored[0] == 1 and (bool(scored[1].isnan()) if second is None else scored[1] == second)


@pytest.mark.parametrize("batch", [True, False])
def test_dice_of_what_is_there_does_not_shrink_with_the_classes_that_are_not(batch: bool) -> None:
    target = torch.ones(2, 1, 4, 4, dtype=torch.long)
    losses = []
    for classes in (2, 30):
        logits = torch.full((2, classes, 1, 4, 4), -20.0)
        logits[:, 0] = 0
        losses.append(float(SegmentLoss(entropy=0.0, absent=False, batch=batch)(logits, target)))
    assert losses == pytest.approx([1.0, 1.0], abs=1e-3)
    assert float(SegmentLoss(entropy=0.0, absent=True, batch=batch)(logits, target)) < 0.1


def test_what_is_never_drawn_beside_a_class_is_not_left_out_of_its_map() -> None:
    liver, kidney, brain = 1, 2, 3
    maps = [torch.tensor([0, liver, kidney]), torch.tensor([0, liver]), torch.tensor([0, brain])]
    together = drawn_together(maps, 4)
    assert together[liver, kidney] and together[kidney, liver] and not together[brain, liver] and together[0].all()
    logits = torch.zeros(1, 4, 1, 4, 4, requires_grad=True)
    target = torch.zeros(1, 1, 4, 4, dtype=torch.long)
    target[..., :2] = liver  # the right half may hold a kidney that nobody drew, and no brain
    loss = SegmentLoss(dice=0, partial=True, together=together)
    (slope,) = torch.autograd.grad(loss(logits, target), logits)
    right = slope[0, :, 0, :, 2:].mean((1, 2))
    assert right[0] < 0 and right[kidney] == right[0] and right[brain] > 0
    empty = torch.zeros_like(target)  # nothing drawn, nothing known
    assert float(loss(logits, empty).detach()) == pytest.approx(0, abs=1e-6)


def test_what_shares_an_encoder_refuses_another_one_and_not_a_newer_second_look(tmp_path: Path) -> None:
    source = assets.adapter_folder("default")
    (tmp_path / "medfm.json").write_text((source / "medfm.json").read_text())
    tensors, trained_on = assets.eye_tensors(source), SharedEncoder(tune="none").eye
    for name, same in (("glance.", True), ("encoder.stem.0.weight", False)):
        changed = next(n for n in tensors if n.startswith(name))
        tensors[changed] = tensors[changed] + 1
        save_file(tensors, tmp_path / "vision.safetensors")
        if same:
            SharedEncoder(adapter=str(tmp_path), tune="none", eye=trained_on)
        else:
            with pytest.raises(AdapterMismatch, match="train the model again"):
                SharedEncoder(adapter=str(tmp_path), tune="none", eye=trained_on)


def test_sharpened_outlines_start_as_the_eyes_own() -> None:
    names = ["Spleen", "Liver", "in no eye"]
    encoder, head = {"name": "shared", "tune": "lora"}, {"name": "outline", "widths": [8, 8, 8, 8]}
    prepare = {"channels": 3, "intensity": "range"}
    model = Segmenter(encoder=encoder, head=head, labels=names, prepare=prepare, patch=[1, 96, 96]).eval()
    tensors, known = assets.eye_structures("default")
    eye = StructureHead(model.encoder.channels, labels=known).eval()
    eye.load_state_dict(tensors)
    x, spacing = torch.rand(2, 3, 1, 96, 96, generator=torch.Generator().manual_seed(0)), torch.ones(2, 3)
    with torch.no_grad():
        maps = eye(model.encoder(x, spacing), spacing)
        logits = model(x, spacing)[0]
    for number, name in enumerate(names[:2], 1):
        wanted = maps[:, known.index(name)]
        for size in ((48, 48), (96, 96)):
            wanted = torch.nn.functional.interpolate(wanted, size, mode="bilinear")
        torch.testing.assert_close(logits[:, number], wanted)
    assert (logits[:, 0] == 0).all()


def test_a_model_of_pictures_reads_a_patients_slice_as_it_is_displayed() -> None:
    torch.manual_seed(0)
    encoder = {"name": "conv", "ndim": 2, "channels": [4, 8], "convs": [1, 1]}
    model = Segmenter(
        encoder=encoder, head={"ndim": 2, "convs": 1}, labels=["a", "b"],
        prepare={"intensity": "zscore", "displayed": True}, patch=[1, 32, 40],
    ).eval()  # fmt: skip
    picture = np.random.default_rng(0).normal(size=(32, 40)).astype(np.float32)
    wanted = medfm.segment(model, Scan.from_array(picture)).array[0]
    assert len(np.unique(wanted)) > 1
    for first in (picture[None], np.stack([picture, picture])):  # rows to the back, columns to the left of the patient
        scan = Scan.from_array(first, affine=np.diag([-1.0, -1.0, 3.0, 1.0]))
        found = replace(scan, data=medfm.segment(model, scan).array[None])
        for shown in found.slices("axial")[0][0]:
            assert (shown == wanted).mean() > 0.99  # sums in another order round otherwise
