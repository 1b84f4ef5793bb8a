"""The same real files read by nibabel and SimpleITK: same array, same affine."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scan_builders as build

from medfm.errors import ScanError, SeriesChoice
from medfm.scan import Scan

DATA = Path(os.environ.get("MEDFM_DATA", "/nonexistent"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="set MEDFM_DATA to the folder of real data")
NIBABEL_FILES = ["anatomical.nii", "standard.nii.gz", "example_nifti2.nii.gz", "reoriented_anat_moved.nii"]
NIBABEL_4D = ["functional.nii", "example4d.nii.gz"]
DICOM_FILES = [
    "CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm",
    "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "693_J2KI.dcm", "693_UNCR.dcm", "693_J2KR.dcm", "MR2_UNCR.dcm",
    "MR-SIEMENS-DICOM-WithOverlays.dcm", "explicit_VR-UN.dcm", "J2K_pixelrep_mismatch.dcm", "JPEG-LL.dcm",
    "RG3_UNCR.dcm", "examples_rgb_color.dcm",  "examples_palette.dcm",
]  # fmt: skip


def _nibabel_file(name: str) -> Path:
    import nibabel

    path = Path(nibabel.__file__).parent / "tests" / "data" / name
    if not path.is_file():
        pytest.skip("nibabel was installed without its test data")
    return path


def _canonical(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(..., D, H, W) and affine, by nibabel."""
    import nibabel

    image = nibabel.as_closest_canonical(nibabel.load(path))
    return np.asanyarray(image.dataobj).T, image.affine


def _as_ras(image: Any) -> tuple[np.ndarray, np.ndarray]:
    """A SimpleITK image as canonical (D, H, W) and affine, by nibabel's orientation functions."""
    import nibabel
    import SimpleITK

    array = SimpleITK.GetArrayFromImage(image)
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    made = nibabel.Nifti1Image(array.T.astype(np.float64), np.diag([-1, -1, 1, 1]) @ affine)
    turned = nibabel.as_closest_canonical(made)
    return np.asanyarray(turned.dataobj).T, turned.affine


@pytest.mark.parametrize("name", NIBABEL_FILES)
def test_nifti_equals_nibabel(name: str) -> None:
    path = _nibabel_file(name)
    array, affine = _canonical(path)
    try:
        scan = Scan.read(path)
    except ScanError:  # a test file with several volumes
        scan, array = Scan.read(path, frame=0), array[0]
    np.testing.assert_allclose(scan.data[0], array, rtol=1e-6)
    np.testing.assert_array_equal(scan.affine, affine)


@pytest.mark.parametrize("name", NIBABEL_4D)
def test_nifti_over_time_equals_nibabel(name: str) -> None:
    path = _nibabel_file(name)
    array, affine = _canonical(path)
    with pytest.raises(ScanError, match=f"{len(array)} frames"):
        Scan.read(path)
    scan = Scan.read(path, frame=1)
    np.testing.assert_allclose(scan.data[0], array[1], rtol=1e-6)
    np.testing.assert_array_equal(scan.affine, affine)


@pytest.mark.parametrize("slope", [(1.0, 0.0), (2.0, -1024.0), (0.5, 0.25)])
def test_nifti_is_rescaled_once(slope: tuple[float, float], tmp_path: Path) -> None:
    import nibabel

    image = nibabel.Nifti1Image(build.phantom().transpose(2, 1, 0), build.ras_affine())
    image.header.set_slope_inter(*slope)
    nibabel.save(image, tmp_path / "x.nii")
    array, _ = _canonical(tmp_path / "x.nii")
    np.testing.assert_allclose(Scan.read(tmp_path / "x.nii").data[0], array, rtol=1e-6)


def test_rgb_nifti(tmp_path: Path) -> None:
    import nibabel

    rgb = np.random.default_rng(0).integers(0, 255, (4, 5, 6, 3), dtype=np.uint8)
    kind = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(rgb.copy().view(kind).reshape(4, 5, 6), np.eye(4)), tmp_path / "rgb.nii")
    scan = Scan.read(tmp_path / "rgb.nii")
    np.testing.assert_array_equal(scan.data, rgb.transpose(3, 2, 1, 0))
    scan.write(tmp_path / "again.nii.gz")
    np.testing.assert_array_equal(Scan.read(tmp_path / "again.nii.gz").data, scan.data)


@pytest.mark.parametrize("name", DICOM_FILES)
def test_dicom_file_equals_simpleitk(name: str) -> None:
    import SimpleITK
    from pydicom.data import get_testdata_file

    try:
        path = get_testdata_file(name, download=False)
    except ValueError:
        path = None
    if path is None:
        pytest.skip("pydicom-data is not installed")
    scan = Scan.read(path)
    image = SimpleITK.ReadImage(str(path))
    if scan.frame == "image":
        array = SimpleITK.GetArrayFromImage(image).reshape(*scan.data.shape[1:], -1)  # colours last
        np.testing.assert_allclose(scan.data, np.moveaxis(array, -1, 0), atol=2 if scan.units == "RGB" else 0)
        return
    array, affine = _as_ras(image)
    np.testing.assert_allclose(scan.data[0], array, rtol=1e-5, atol=1e-4)
    acquired = {"sagittal": 0, "coronal": 1, "axial": 2}[str(scan.plane)]
    for column in {0, 1, 2, 3} - {acquired}:  # one slice alone has no distance to the next
        np.testing.assert_allclose(scan.affine[:, column], affine[:, column], atol=1e-3)


@pytest.mark.parametrize("angle", [0.0, 12.0])
@pytest.mark.parametrize("flip", [(), (0,), (1,), (2,), (0, 1, 2)])
@pytest.mark.parametrize("ending", ["nrrd", "mha", "nii.gz"])
def test_flipped_and_oblique_volumes_equal_simpleitk(
    ending: str, flip: tuple[int, ...], angle: float, tmp_path: Path
) -> None:
    import SimpleITK

    image = build.itk_image(build.phantom(), build.ras_affine(angle=angle))
    image = SimpleITK.PermuteAxes(SimpleITK.Flip(image, [axis in flip for axis in range(3)]), [2, 0, 1])
    SimpleITK.WriteImage(image, str(tmp_path / f"x.{ending}"))
    scan = Scan.read(tmp_path / f"x.{ending}")
    array, affine = _as_ras(SimpleITK.ReadImage(str(tmp_path / f"x.{ending}")))
    np.testing.assert_array_equal(scan.data[0], array)
    np.testing.assert_allclose(scan.affine, affine, atol=1e-4)


def _series_by_simpleitk(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    import SimpleITK

    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return _as_ras(reader.Execute())


@pytest.mark.parametrize("angle", [0.0, 12.0])
def test_dicom_series_equals_simpleitk(angle: float, tmp_path: Path) -> None:
    build.series(tmp_path, build.phantom(), build.ras_affine(angle=angle), RescaleIntercept=-1024)
    array, affine = _series_by_simpleitk(tmp_path)
    scan = Scan.read(tmp_path)
    np.testing.assert_array_equal(scan.data[0], array)
    np.testing.assert_allclose(scan.affine, affine, atol=1e-4)


def test_itk_vectors_colours_and_times(tmp_path: Path) -> None:
    import SimpleITK

    rgb = np.random.default_rng(0).integers(0, 255, (4, 5, 6, 3), dtype=np.uint8)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(rgb, isVector=True), str(tmp_path / "rgb.mha"))
    assert Scan.read(tmp_path / "rgb.mha").data.shape == (3, 4, 5, 6)
    times = np.stack([build.phantom(), build.phantom() + 1])
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(times, isVector=False), str(tmp_path / "t.mha"))
    with pytest.raises(ScanError, match="2 frames"):
        Scan.read(tmp_path / "t.mha")
    scan = Scan.read(tmp_path / "t.mha", frame=1)
    assert scan.data.max() == build.phantom().max() + 1


@needs_data
def test_real_jpeg2000_series_equals_simpleitk() -> None:
    array, affine = _series_by_simpleitk_files(sorted((DATA / "body_ct_dicom").iterdir()))
    scan = Scan.read(DATA / "body_ct_dicom")
    np.testing.assert_array_equal(scan.data[0], array)
    np.testing.assert_allclose(scan.affine, affine, atol=1e-3)
    assert (scan.modality, scan.plane, scan.body_part, scan.units) == ("CT", "axial", "abdomen", "HU")


def _series_by_simpleitk_files(paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Without series UIDs SimpleITK cannot sort: the files are handed over in the order of their positions."""
    import pydicom
    import SimpleITK

    ordered = sorted(paths, key=lambda p: float(pydicom.dcmread(p, stop_before_pixels=True).ImagePositionPatient[2]))
    return _as_ras(SimpleITK.ReadImage([str(path) for path in ordered]))


@needs_data
@pytest.mark.parametrize(
    ("name", "modality", "part"),
    [
        ("chest_ct/lidc_0314_half.nii.gz", "CT", "chest"),
        ("body_ct/ct.nii.gz", "CT", "abdomen"),
        ("body_ct/mr.nii.gz", "MR", None),
    ],
)
def test_real_volumes_equal_nibabel_and_are_recognised(name: str, modality: str, part: str | None) -> None:
    array, affine = _canonical(DATA / name)
    scan = Scan.read(DATA / name)
    np.testing.assert_array_equal(scan.data[0], array)
    np.testing.assert_array_equal(scan.affine, affine)
    assert (scan.modality, scan.plane, scan.body_part) == (modality, "axial", part)
    assert {"modality", "plane"} <= scan.estimated


@needs_data
def test_a_real_zip_of_pictures_is_a_list_to_choose_from() -> None:
    import io

    from PIL import Image

    path = DATA / "sunnybrook" / "train.zip"
    with pytest.raises(SeriesChoice) as caught:
        Scan.read(path)
    with zipfile.ZipFile(path) as archive:
        names = sorted(info.filename for info in archive.infolist() if not info.is_dir())
        expected = np.asarray(Image.open(io.BytesIO(archive.read(names[3]))).convert("L"))
    assert len(caught.value.choices) == len(names)
    assert not any("SC-HF" in text for text in (str(caught.value), *caught.value.choices))
    np.testing.assert_array_equal(Scan.read(path, series=3).data[0, 0], expected)
