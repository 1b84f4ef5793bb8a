"""Alignments in patient space, searches on known movements, training on pairs, and the figures of an evaluation."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch
from scan_builders import ras_affine
from scipy.ndimage import gaussian_filter

import medfm
from medfm.data.pairs import draw_pairs, read_pairs
from medfm.errors import ConfigError, DataError, ScanError, ShapeError
from medfm.evaluate.register import evaluate_register, read_alignments
from medfm.export.alignment import save_alignment
from medfm.iterative import iterate, starting
from medfm.predict import likeness
from medfm.registrar import Registrar
from medfm.scan import Alignment, Mask, Scan

SHAPE = (20, 24, 28)


def head(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    """A rounded body with structure inside, on black."""
    places = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) if n > 1 else [0.0] for n in shape], indexing="ij"))
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), [min(n - 1, 1.5) for n in shape])
    body = (places**2).sum(0) < 0.75
    return (body * (100 + 60 * noise / noise.std())).clip(0, 255).astype(np.float32)


def texture() -> np.ndarray:
    """Structure everywhere, about 100."""
    noise = gaussian_filter(np.random.default_rng(3).normal(size=SHAPE), 1.5)
    return (100 + 40 * noise / noise.std()).astype(np.float32)


def scan(array: np.ndarray, *, affine: np.ndarray | None = None) -> Scan:
    return Scan.from_array(array, affine=ras_affine((1.0, 1.2, 1.5), angle=10) if affine is None else affine)


def movement(degrees: float = 6.0, shift: tuple[float, float, float] = (2.0, -1.5, 1.0)) -> np.ndarray:
    """A turn about the axis through the middle of `scan(head())`, then a shift; RAS mm."""
    a = np.radians(degrees)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    middle = (scan(head()).affine @ [*((np.array(SHAPE[::-1]) - 1) / 2), 1])[:3]
    matrix = np.eye(4)
    matrix[:3, :3] = turn
    matrix[:3, 3] = middle - turn @ middle + shift
    return matrix


def bent() -> Alignment:
    """A known alignment with a field of up to 2 mm that does not fold."""
    noise = np.random.default_rng(1).normal(size=(3, *SHAPE))
    field = np.stack([gaussian_filter(part, 4) for part in noise])
    return Alignment(movement(), (2 * field / np.abs(field).max()).astype(np.float32), scan(head()).affine)


def corners(of: Scan) -> np.ndarray:
    index = np.random.default_rng(2).uniform(4, np.array(SHAPE[::-1]) - 5, (30, 3))
    return index @ of.affine[:3, :3].T + of.affine[:3, 3]


def test_points_there_and_back():
    x = corners(scan(head()))
    alignment = bent()
    there = alignment.points(x)
    assert np.abs(there - x).max() > 2
    assert np.abs(alignment.points_back(there) - x).max() < 0.01


def test_itk_reads_the_transform_and_the_field_and_agrees(tmp_path):
    alignment, like = bent(), scan(head())
    alignment.write(tmp_path / "t.h5")
    alignment.write_field(tmp_path / "f.nii.gz", like)
    x = corners(like)
    flip = np.array([-1, -1, 1])
    field = SimpleITK.DisplacementFieldTransform(
        SimpleITK.ReadImage(str(tmp_path / "f.nii.gz"), SimpleITK.sitkVectorFloat64)
    )
    for transform, tolerance in ((SimpleITK.ReadTransform(str(tmp_path / "t.h5")), 1e-3), (field, 0.05)):
        theirs = np.array([transform.TransformPoint((p * flip).tolist()) for p in x]) * flip
        assert np.abs(theirs - alignment.points(x)).max() < tolerance
    again = Alignment.read(tmp_path / "t.h5")
    assert np.abs(again.points(x) - alignment.points(x)).max() < 1e-3
    SimpleITK.WriteTransform(SimpleITK.Euler3DTransform((1.0, 2.0, 3.0), 0.1, 0.2, 0.3), str(tmp_path / "e.tfm"))
    rigid = Alignment.read(tmp_path / "e.tfm")
    assert np.linalg.det(rigid.matrix[:3, :3]) == pytest.approx(1)
    SimpleITK.WriteTransform(SimpleITK.BSplineTransform(3), str(tmp_path / "b.tfm"))
    with pytest.raises(ScanError, match="BSplineTransform"):
        Alignment.read(tmp_path / "b.tfm")


def test_itk_warps_as_we_do():
    alignment, moving, fixed = bent(), scan(head()), scan(head(seed=1))
    ours = alignment.warp(moving, fixed)
    mask = Mask((head() > 100).astype(np.uint8), moving.affine)
    brought = alignment.warp_mask(mask, fixed)
    assert set(np.unique(brought.array)) == {0, 1}
    assert (brought.affine == fixed.affine).all()
    x = corners(fixed)
    index = np.linalg.inv(fixed.affine) @ np.c_[x, np.ones(len(x))].T
    from scipy.ndimage import map_coordinates

    there = np.linalg.inv(moving.affine) @ np.c_[alignment.points(x), np.ones(len(x))].T
    mine = map_coordinates(ours.data[0], index[:3][::-1], order=1)
    theirs = map_coordinates(moving.data[0], there[:3][::-1], order=1)
    assert np.corrcoef(mine, theirs)[0, 1] > 0.95


def test_jacobian_is_the_change_of_volume():
    assert Alignment(np.diag([2.0, 1, 1, 1])).jacobian() == pytest.approx(2)
    affine = ras_affine((1.0, 1.2, 1.5), angle=10)
    w, h, d = np.meshgrid(*[np.arange(n) for n in (5, 6, 7)], indexing="ij")
    x = np.einsum("ij,jdhw->idhw", affine[:3, :3], np.stack([w, h, d]).transpose(0, 3, 2, 1))
    grown = Alignment(np.eye(4), (0.1 * x).astype(np.float32), affine)
    assert np.allclose(grown.jacobian(), 1.1**3, atol=1e-4)
    folded = Alignment(np.eye(4), (-2.0 * x).astype(np.float32), affine)
    assert (folded.jacobian() <= 0).all()


def test_bad_alignments_are_refused():
    with pytest.raises(ShapeError, match="invertible"):
        Alignment(np.zeros((4, 4)))
    with pytest.raises(ShapeError, match="come together"):
        Alignment(np.eye(4), np.zeros((3, 2, 2, 2), np.float32))
    with pytest.raises(ScanError, match=r"\.h5"):
        Alignment(np.eye(4)).write("a.mat")


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


@pytest.mark.parametrize("recipe", ["diffeomorphic", "voxelmorph", "synthmorph"])
def test_recipes_train_and_load(recipe, tmp_path):
    from medfm.config import load_recipe
    from medfm.train.loop import train

    write_set(tmp_path / "set")
    changes = [
        f"data.train={tmp_path / 'set'}", "data.hold=0.34", "objective.patch=[16, 16, 16]", "objective.checked=2",
        "objective.model.encoder.channels=[4, 8, 8]", "objective.model.encoder.strides=[1, 2, 2]",
        "objective.model.encoder.convs=1", "train.epochs=1",
    ]  # fmt: skip
    train(load_recipe(f"registration/{recipe}", changes), output=tmp_path / "run")
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


def test_the_files_of_a_registration(tmp_path):
    moving, fixed = scan(head()), scan(head(seed=1))
    about = save_alignment(bent(), moving, fixed, tmp_path)
    assert about["folding_percent"] == 0
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {
        "transform.h5", "field.nii.gz", "warped.nii.gz", "jacobian.nii.gz", "checkerboard.png", "difference.png",
        "difference_before.png", "registration.json",
    }  # fmt: skip
    assert np.allclose(Scan.read(tmp_path / "warped.nii.gz").affine, fixed.affine, atol=1e-4)


def test_a_comparison_matches_lesions_by_their_registered_place():
    from medfm.predict.compare import compare
    from medfm.scan import Box, Finding

    def nodule(middle: np.ndarray, size: float) -> Finding:
        box = Box("nodule", tuple((middle - size / 2).tolist()), tuple((middle + size / 2).tolist()))
        return Finding("nodule", "lung", "left", True, size, 0.9, (box,))

    way = Alignment(movement(20, (40, 0, 0)))
    here = np.array([10.0, 20, 30])
    there = way.points(here)[0]
    (same,) = compare([nodule(here, 12)], [nodule(there, 8)], way=way)
    assert same.text.startswith("Larger (8 mm before, 12 mm now)")
    told = compare([nodule(here, 12)], [nodule(there + 50, 8)], way=way)
    assert [sentence.text.split(":")[0] for sentence in told] == ["New", "No longer seen"]
    assert len(compare([nodule(here, 12)], [nodule(there + 50, 8)])) == 1


def test_a_planted_lesion_that_grew_is_told_in_millilitres():
    """Prior and current scan of one patient, who lies turned and shifted; one lesion grew, another is new."""
    from medfm.predict.compare import compare
    from medfm.scan import Finding

    moved = movement(8, (4, -3, 2))
    index = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"))

    def ball(middle: tuple[int, int, int], radius: float) -> np.ndarray:
        return np.linalg.norm(index - np.array(middle)[:, None, None, None], axis=0) < radius

    def told(lesion: np.ndarray, affine: np.ndarray) -> Finding:
        return Finding("nodule", "lung", evidence=(Mask(lesion.astype(np.uint8), affine),))

    plain = scan(head())
    grown, small, other = ball((8, 9, 9), 4.2), ball((8, 9, 9), 3.0), ball((13, 16, 20), 3.2)
    current = scan(plain.data[0] + 120 * (grown | other))
    away = Alignment(np.linalg.inv(moved))
    prior = away.warp(scan(plain.data[0] + 120 * small), plain)
    before = away.warp_mask(Mask(small.astype(np.uint8), plain.affine), plain).array
    way = medfm.register(prior, current, method="rigid")
    now = [told(grown, plain.affine), told(other, plain.affine)]
    first, second = compare(now, [told(before, prior.affine)], way=way)
    voxel = abs(np.linalg.det(plain.affine[:3, :3])) / 1000
    growth = (grown.sum() - before.sum()) * voxel
    assert first.text.startswith(f"Larger by {growth:.1f} ml ({before.sum() * voxel:.1f} ml before")
    assert second.text.startswith("New: ")
    (same,) = compare([told(small, plain.affine)], [told(before, prior.affine)])
    assert same.text.startswith("Unchanged within the error of measurement")
    gone = compare([], [told(before, prior.affine)])
    assert gone[0].text.startswith("No longer seen")


def test_simpleitk_applies_the_written_files_and_gets_our_picture(tmp_path):
    alignment, moving, fixed = bent(), scan(texture()), scan(head(seed=1))
    moving.write(tmp_path / "moving.nii.gz")
    fixed.write(tmp_path / "fixed.nii.gz")
    save_alignment(alignment, moving, fixed, tmp_path / "out")
    like, source, ours = (
        SimpleITK.ReadImage(str(tmp_path / name), SimpleITK.sitkFloat32)
        for name in ("fixed.nii.gz", "moving.nii.gz", "out/warped.nii.gz")
    )
    written = SimpleITK.ReadTransform(str(tmp_path / "out/transform.h5"))
    vectors = SimpleITK.ReadImage(str(tmp_path / "out/field.nii.gz"), SimpleITK.sitkVectorFloat64)
    d, h, w = np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij")
    x = np.stack([w, h, d], -1).reshape(-1, 3) @ fixed.affine[:3, :3].T + fixed.affine[:3, 3]
    there = np.c_[alignment.points(x), np.ones(len(x))] @ np.linalg.inv(moving.affine)[:3].T
    inside = ((there >= 0.1) & (there <= np.array(SHAPE[::-1]) - 1.1)).all(1).reshape(SHAPE)
    assert inside.mean() > 0.4
    for transform in (written, SimpleITK.DisplacementFieldTransform(vectors)):
        theirs = SimpleITK.GetArrayFromImage(SimpleITK.Resample(source, like, transform, SimpleITK.sitkLinear))
        assert np.abs(theirs - SimpleITK.GetArrayFromImage(ours))[inside].max() < 0.4  # a hundredth of its deviation


def test_a_mirrored_pair_has_the_mirrored_alignment():
    alignment, moving, fixed = bent(), scan(texture()), scan(head(seed=1))
    mirror = np.diag([-1.0, 1.0, 1.0, 1.0])

    def mirrored(of: Scan) -> Scan:
        return Scan.from_array(of.data[0], affine=mirror @ of.affine)

    flipped = Alignment(
        mirror @ alignment.matrix @ mirror, alignment.field * np.array([-1, 1, 1], np.float32)[:, None, None, None],
        mirror @ alignment.affine,
    )  # fmt: skip
    ours, theirs = alignment.warp(moving, fixed), flipped.warp(mirrored(moving), mirrored(fixed))
    assert np.allclose(ours.data, theirs.data[..., ::-1], atol=1e-2)  # scans come in RAS order, so columns turned round
    assert np.allclose(alignment.jacobian(), flipped.jacobian(), atol=1e-5)
