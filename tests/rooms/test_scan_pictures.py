"""Pictures and arrays: depth kept, orientation applied, grey and colour told apart, pages and spacing by choice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medfm.errors import ScanError, SeriesChoice
from medfm.scan import Scan

GREY = np.random.default_rng(0).integers(0, 255, (12, 17), dtype=np.uint8)
RGB = np.random.default_rng(1).integers(0, 255, (12, 17, 3), dtype=np.uint8)
DEEP = np.random.default_rng(2).integers(0, 65535, (12, 17), dtype=np.uint16)


def _saved(array: np.ndarray, path: Path) -> Path:
    Image.fromarray(array).save(path)
    return path


@pytest.mark.parametrize("ending", ["png", "tif", "bmp"])
def test_grey_and_colour(ending: str, tmp_path: Path) -> None:
    grey = Scan.read(_saved(GREY, tmp_path / f"g.{ending}"))
    np.testing.assert_array_equal(grey.data, GREY[None, None])
    colour = Scan.read(_saved(RGB, tmp_path / f"c.{ending}"))
    np.testing.assert_array_equal(colour.data[:, 0], RGB.transpose(2, 0, 1))
    assert (colour.modality, colour.units, grey.modality, grey.units) == ("PHOTO", "RGB", "UNKNOWN", "a.u.")
    assert colour.frame == "image" and not colour.spacing_known and colour.estimated == {"modality"}


def test_grey_stored_as_colour_is_one_channel(tmp_path: Path) -> None:
    scan = Scan.read(_saved(np.repeat(GREY[..., None], 3, 2), tmp_path / "g.png"))
    np.testing.assert_array_equal(scan.data, GREY[None, None])
    palette = Image.fromarray(GREY).convert("P")
    palette.save(tmp_path / "p.png")
    assert Scan.read(tmp_path / "p.png").data.shape[0] == 1


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_sixteen_bits_are_kept(ending: str, tmp_path: Path) -> None:
    scan = Scan.read(_saved(DEEP, tmp_path / f"d.{ending}"))
    np.testing.assert_array_equal(scan.data[0, 0], DEEP)


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_exif_orientation_is_applied(ending: str, tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 20), "black")
    picture.paste((255, 0, 0), (0, 0, 20, 20))  # left half red
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise for display
    picture.save(tmp_path / f"x.{ending}", exif=exif)
    scan = Scan.read(tmp_path / f"x.{ending}")
    assert scan.data.shape == (3, 1, 40, 20)
    assert scan.data[0, 0, :15].min() > 200 and scan.data[0, 0, 25:].max() < 50  # top half red


def test_transparency_is_put_on_black_and_said(tmp_path: Path) -> None:
    rgba = np.dstack([RGB, np.full(GREY.shape, 255, np.uint8)])
    assert Scan.read(_saved(rgba, tmp_path / "solid.png")).notes == []
    rgba[:, :5, 3] = 0
    scan = Scan.read(_saved(rgba, tmp_path / "clear.png"))
    assert scan.data[:, 0, :, :5].max() == 0 and scan.notes


def test_pages_need_a_choice(tmp_path: Path) -> None:
    pages = [Image.fromarray(GREY // (n + 1)) for n in range(3)]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ScanError, match="3 pages"):
        Scan.read(tmp_path / "x.tif")
    np.testing.assert_array_equal(Scan.read(tmp_path / "x.tif", frame=2).data[0, 0], GREY // 3)


def test_the_name_does_not_decide(tmp_path: Path) -> None:
    _saved(GREY, tmp_path / "x.png").rename(tmp_path / "x.dcm")
    assert Scan.read(tmp_path / "x.dcm").source == "PNG picture"


def test_a_folder_of_pictures_is_a_list_to_choose_from(tmp_path: Path) -> None:
    for name in ("SECRETNAME_b", "SECRETNAME_a"):
        _saved(GREY if name.endswith("a") else GREY // 2, tmp_path / f"{name}.png")
    with pytest.raises(SeriesChoice) as caught:
        Scan.read(tmp_path)
    assert "SECRET" not in str(caught.value) + "".join(caught.value.choices)
    np.testing.assert_array_equal(Scan.read(tmp_path, series=0).data[0, 0], GREY)


def test_spacing_can_be_given(tmp_path: Path) -> None:
    path = _saved(GREY, tmp_path / "x.png")
    assert Scan.read(path, spacing=(0.3, 0.2)).spacing == pytest.approx((0.3, 0.2, 1.0))
    assert Scan.read(path, spacing=0.5).spacing_known


@pytest.mark.parametrize(
    ("array", "shape"),
    [
        (GREY, (1, 1, 12, 17)),
        (RGB, (3, 1, 12, 17)),
        (np.zeros((5, 6, 7), np.float64), (1, 5, 6, 7)),
        (np.zeros((1, 5, 6, 7), np.int16), (1, 5, 6, 7)),
        (np.ones((3, 1, 6, 7), np.uint8), (3, 1, 6, 7)),
        (np.zeros((4, 5), bool), (1, 1, 4, 5)),
        (np.asfortranarray(np.arange(120).reshape(4, 5, 6)), (1, 4, 5, 6)),
    ],
)
def test_shapes_of_arrays(array: np.ndarray, shape: tuple[int, ...], tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", array)
    for scan in (Scan.from_array(array), Scan.read(tmp_path / "x.npy")):
        assert scan.data.shape == shape
        assert scan.data.dtype in (np.uint8, np.int16, np.float32) and scan.data.flags.writeable
    assert float(scan.data.sum()) == float(array.sum())


def test_several_volumes_in_an_array_need_a_choice(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(5 * 24).reshape(5, 2, 3, 4))
    with pytest.raises(ScanError, match="5 frames"):
        Scan.read(tmp_path / "x.npy")
    assert Scan.read(tmp_path / "x.npy", frame=4).data.min() == 96


def test_npz_arrays_by_name_and_number(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", train=GREY, other=GREY // 2)
    with pytest.raises(SeriesChoice) as caught:
        Scan.read(tmp_path / "x.npz")
    assert caught.value.choices == ["other", "train"]
    for wanted in ("train", 1):
        np.testing.assert_array_equal(Scan.read(tmp_path / "x.npz", series=wanted).data[0, 0], GREY)


def test_from_array_turns_any_orientation_to_ras() -> None:
    array = np.arange(24).reshape(2, 3, 4)
    scan = Scan.from_array(array, affine=np.diag([-1.0, -2.0, 3.0, 1.0]), modality="MR", body_part="head")
    np.testing.assert_array_equal(scan.data[0], array[:, ::-1, ::-1])
    np.testing.assert_allclose(scan.affine @ [3, 2, 0, 1], [0, 0, 0, 1])
    assert (scan.modality, scan.body_part, scan.estimated) == ("MR", "head", {"plane"})


def test_hounsfield_units_are_recognised_and_labels_are_not_a_picture() -> None:
    rng = np.random.default_rng(0)
    ct = np.where(np.arange(8000).reshape(20, 20, 20) % 2, -1000, rng.normal(40, 60, (20, 20, 20))).astype(np.int16)
    ct[0, 0, 0] = 900
    scan = Scan.from_array(ct, affine=np.eye(4))
    assert (scan.modality, scan.units) == ("CT", "HU") and {"modality", "units"} <= scan.estimated
    labels = rng.integers(0, 50, (5, 5, 5)).repeat(4, 0).repeat(4, 1).repeat(4, 2)
    assert Scan.from_array(labels, affine=np.eye(4)).modality == "UNKNOWN"
    assert Scan.from_array(rng.normal(300, 80, (20, 20, 20)).clip(0), affine=np.eye(4)).modality == "MR"
