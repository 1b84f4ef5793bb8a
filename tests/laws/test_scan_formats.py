"""Law: one scan re-saved as DICOM series, NIfTI, NRRD, MHA, NPY or NPZ is the same array in the same space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scan_builders as build

from medfm.scan import Mask, Scan

ANGLES = [0.0, 12.0]


def _write(kind: str, folder: Path, volume: np.ndarray, affine: np.ndarray) -> Path:
    if kind == "dicom":
        return build.series(folder / "series", volume, affine)
    if kind in ("nii", "nii.gz"):
        return build.nifti(folder / f"scan.{kind}", volume, affine)
    if kind == "npz":
        np.savez_compressed(folder / "scan.npz", data=volume, affine=affine)
        return folder / "scan.npz"
    return build.itk(folder / f"scan.{kind.removesuffix('+z')}", volume, affine, packed=kind.endswith("+z"))


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("kind", ["dicom", "nii", "nii.gz", "nrrd", "nrrd+z", "mha", "mha+z", "npz"])
def test_same_array_in_the_same_space(kind: str, angle: float, tmp_path: Path) -> None:
    volume, affine = build.phantom(), build.ras_affine(angle=angle)
    scan = Scan.read(_write(kind, tmp_path, volume, affine))
    assert scan.frame == "patient"
    assert scan.data.dtype == np.int16
    np.testing.assert_array_equal(scan.data[0], volume)
    np.testing.assert_allclose(scan.affine, affine, atol=1e-4)
    np.testing.assert_allclose(scan.spacing, (0.8, 1.2, 2.5), atol=1e-5)


def test_npy_with_spacing_is_the_same_array_and_spacing(tmp_path: Path) -> None:
    volume = build.phantom()
    np.save(tmp_path / "scan.npy", volume)
    scan = Scan.read(tmp_path / "scan.npy", spacing=(0.8, 1.2, 2.5))
    np.testing.assert_array_equal(scan.data[0], volume)
    np.testing.assert_allclose(scan.affine, np.diag([0.8, 1.2, 2.5, 1.0]))
    assert scan.spacing_known


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("axes", ["RAS", "LPS", "LIA", "PSR", "SAL", "IRP"])
def test_any_storage_orientation_gives_the_same_scan(axes: str, angle: float, tmp_path: Path) -> None:
    import nibabel
    from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

    image = nibabel.Nifti1Image(build.phantom().transpose(2, 1, 0), build.ras_affine(angle=angle))
    turned = image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(axes)))
    nibabel.save(turned, tmp_path / "turned.nii.gz")
    scan = Scan.read(tmp_path / "turned.nii.gz")
    np.testing.assert_array_equal(scan.data[0], build.phantom())
    np.testing.assert_allclose(scan.affine, build.ras_affine(angle=angle), atol=1e-4)
    assert scan.axes == axes
    mask = Mask((scan.data[0] > 0).astype(np.uint8), scan.affine, axes=scan.axes)
    for written, there in ((scan, turned.get_fdata()), (mask, turned.get_fdata() > 0)):
        written.write(tmp_path / "written.nii.gz")  # for programs that compare arrays and not places
        again = nibabel.load(tmp_path / "written.nii.gz")
        np.testing.assert_array_equal(again.get_fdata(), there)
        np.testing.assert_allclose(again.affine, turned.affine, atol=1e-4)


def test_written_scan_reads_back_the_same(tmp_path: Path) -> None:
    first = Scan.read(build.series(tmp_path / "series", build.phantom(), build.ras_affine(angle=12.0)))
    first.write(tmp_path / "copy.nii.gz")
    again = Scan.read(tmp_path / "copy.nii.gz")
    np.testing.assert_array_equal(again.data, first.data)
    np.testing.assert_allclose(again.affine, first.affine, atol=1e-4)
    assert build.NAME.encode() not in (tmp_path / "copy.nii.gz").read_bytes()


def test_the_content_hash_follows_the_content_and_not_the_name(tmp_path: Path) -> None:
    volume, affine = build.phantom(), build.ras_affine()
    one = Scan.read(build.nifti(tmp_path / "a.nii", volume, affine))
    two = Scan.read(build.nifti(tmp_path / "b.nii.gz", volume, affine))
    other = volume.copy()
    other[0, 0, 0] += 1
    three = Scan.read(build.nifti(tmp_path / "c.nii", other, affine))
    four = Scan.read(build.nifti(tmp_path / "d.nii", volume, build.ras_affine((0.8, 1.2, 2.6))))
    assert one.content_hash == two.content_hash
    assert len({one.content_hash, three.content_hash, four.content_hash}) == 3
