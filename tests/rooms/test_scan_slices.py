"""Left is left and up is up: display order of each plane, on a phantom whose every corner is known."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scan_builders as build

from medfm.errors import ScanError
from medfm.scan import Scan
from medfm.scan.orientation import displayed_at

SPACING = (0.8, 1.2, 2.5)


@pytest.fixture
def scan() -> Scan:
    """A block in the patient's right, anterior, superior corner has value 7; the rest is 0."""
    volume = np.zeros((6, 8, 10), np.int16)
    volume[4:, 6:, 7:] = 7  # D up, H anterior, W right
    return Scan.from_array(volume, affine=build.ras_affine(SPACING))


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_voxel_is_displayed_where_its_place_says(plane: str) -> None:
    volume = np.arange(6 * 8 * 10, dtype=np.int16).reshape(6, 8, 10)
    shown = Scan.from_array(volume, affine=build.ras_affine(SPACING)).slices(plane)[0][0]
    voxels = np.array([[0, 0, 0], [5, 7, 9], [2, 6, 1]])
    places = displayed_at(voxels, volume.shape, plane)
    assert shown[tuple(places.T)].tolist() == volume[tuple(voxels.T)].tolist()


def test_axial_is_seen_from_the_feet(scan: Scan) -> None:
    slices, spacing = scan.slices("axial")
    assert slices.shape == (1, 6, 8, 10)
    assert spacing == pytest.approx((2.5, 1.2, 0.8))
    expected = np.zeros((6, 8, 10))
    expected[4:, :2, :3] = 7  # late slices (superior), top (anterior), image left (patient right)
    np.testing.assert_array_equal(slices[0], expected)


def test_coronal_is_seen_from_the_front(scan: Scan) -> None:
    slices, spacing = scan.slices("coronal")
    assert slices.shape == (1, 8, 6, 10)
    assert spacing == pytest.approx((1.2, 2.5, 0.8))
    expected = np.zeros((8, 6, 10))
    expected[:2, :2, :3] = 7  # early slices (anterior), top (superior), image left (patient right)
    np.testing.assert_array_equal(slices[0], expected)


def test_sagittal_looks_to_the_left_of_the_image(scan: Scan) -> None:
    slices, spacing = scan.slices("sagittal")
    assert slices.shape == (1, 10, 6, 8)
    assert spacing == pytest.approx((0.8, 2.5, 1.2))
    expected = np.zeros((10, 6, 8))
    expected[:3, :2, :2] = 7  # early slices (right), top (superior), image left (anterior)
    np.testing.assert_array_equal(slices[0], expected)


def test_slices_are_views_of_the_data(scan: Scan) -> None:
    assert all(np.shares_memory(scan.slices(plane)[0], scan.data) for plane in ("axial", "coronal", "sagittal"))


def test_a_picture_comes_back_as_displayed() -> None:
    picture = np.arange(12, dtype=np.uint8).reshape(3, 4)
    scan = Scan.from_array(picture, spacing=(0.5, 0.25))
    slices, spacing = scan.slices("coronal")
    np.testing.assert_array_equal(slices[0, 0], picture)
    assert spacing == (1.0, 0.25, 0.5)
    assert (scan.frame, scan.plane, scan.best_plane, scan.spacing_known) == ("image", None, None, True)


def test_an_unknown_plane_is_an_error(scan: Scan) -> None:
    with pytest.raises(ScanError, match="axial, coronal or sagittal"):
        scan.slices("transverse")


@pytest.mark.parametrize(
    ("shape", "spacing", "plane"),
    [
        ((5, 20, 20), (1, 1, 5), "axial"),
        ((20, 5, 20), (1, 5, 1), "coronal"),
        ((20, 20, 5), (5, 1, 1), "sagittal"),
        ((20, 20, 20), (1, 1, 1), "axial"),
        ((20, 20, 1), (1, 1, 1), "sagittal"),
        ((20, 1, 20), (1, 1, 3), "coronal"),
        ((1, 20, 20), (1, 1, 1), "axial"),
    ],
)
def test_best_plane(shape: tuple[int, int, int], spacing: tuple[float, float, float], plane: str) -> None:
    scan = Scan.from_array(np.zeros(shape, np.int16), affine=np.diag([*spacing, 1.0]))
    assert scan.best_plane == scan.plane == plane
    assert "plane" in scan.estimated


def test_a_dicom_stack_knows_its_plane_even_when_isotropic(tmp_path: Path) -> None:
    """A sagittal 1 mm MR: the header's orientation wins over 'axial when isotropic'."""
    for k in range(4):
        ds = build.dicom(
            np.full((5, 6), k, np.int16), ImagePositionPatient=[k, 0, 0], ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
            PixelSpacing=[1, 1], Modality="MR",
        )  # fmt: skip
        build.save(ds, tmp_path / f"{k}.dcm")
    scan = Scan.read(tmp_path)
    assert scan.data.shape == (1, 5, 6, 4)
    assert scan.plane == scan.best_plane == "sagittal"
    assert "plane" not in scan.estimated
    np.testing.assert_array_equal(scan.data[0, 0, 0], [3, 2, 1, 0])  # LPS x grows to Left, W to Right


def test_importing_the_room_is_light() -> None:
    code = "import sys, medfm.scan; print(*[m for m in ('torch','SimpleITK','pydicom','nibabel') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
