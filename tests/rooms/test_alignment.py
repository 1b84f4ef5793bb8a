"""Alignments in patient space: points, ITK's files, Jacobians, and what a comparison of two scans makes of them."""

import numpy as np
import pytest
import SimpleITK
from alignment_builders import SHAPE, bent, corners, head, movement, scan, texture
from PIL import Image
from scan_builders import ras_affine

import medfm
from medfm.errors import ScanError, ShapeError
from medfm.export.alignment import save_alignment
from medfm.scan import Alignment, Mask, Scan


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


def test_the_difference_is_black_where_the_moving_scan_does_not_reach(tmp_path):
    fixed = scan(head())
    far = Alignment(movement(0, (0, 0, 2 * fixed.extent[0])))
    save_alignment(far, fixed, fixed, tmp_path)
    away, same = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("difference", "difference_before"))
    assert (away == 0).all()
    assert (abs(same.astype(int) - 128) <= 1).all()


def test_a_mask_that_reaches_the_border_still_does_after_rounding():
    fixed = scan(head())
    everything = Mask(np.ones(SHAPE, dtype=np.uint8), fixed.affine)
    hair = np.eye(4)
    hair[:3, 3] = 1e-9
    assert Alignment(hair).warp_mask(everything, fixed).array.all()


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
