"""Outlines of what a person marked, on pictures and volumes whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

import medfm
from medfm.errors import ScanError
from medfm.predict import enclose, grow


def ball(noise: float = 15.0) -> tuple[medfm.Scan, np.ndarray]:
    """A ball of 60 HU in fat of -100 HU, anisotropic voxels, with noise; and its true mask."""
    d, h, w = np.mgrid[:24, :60, :64]
    truth = ((d - 12) * 3.0) ** 2 + ((h - 30) * 1.5) ** 2 + ((w - 40) * 1.5) ** 2 < 18**2
    data = np.where(truth, 60, -100) + np.random.default_rng(0).normal(0, noise, truth.shape)
    affine = np.diag([1.5, 1.5, 3.0, 1.0])
    affine[:3, 3] = (50, -20, 300)
    return medfm.Scan.from_array(data.astype(np.int16), affine=affine, modality="CT", units="HU"), truth


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * float((one & other).sum()) / float(one.sum() + other.sum())


def test_a_click_grows_to_the_thing_and_no_further() -> None:
    scan, truth = ball()
    mask = grow(scan, scan.affine[:3] @ (40, 30, 12, 1))
    assert mask is not None
    assert dice(mask.array > 0, truth) > 0.95
    assert mask.to_dict()["labels"]["1"]["ml"] == pytest.approx(truth.sum() * 6.75 / 1000, rel=0.06)


def test_a_click_on_what_fills_the_scan_means_nothing() -> None:
    scan, _ = ball()
    assert grow(scan, scan.affine[:3] @ (5, 5, 2, 1)) is None


def test_a_box_in_a_slice_gives_the_thing_in_that_slice() -> None:
    scan, truth = ball(noise=25.0)
    ends = [scan.affine[:3] @ (w, h, 12, 1) for w, h in ((24, 14), (56, 46))]
    mask = enclose(scan, np.minimum(*ends), np.maximum(*ends))
    assert mask is not None
    assert set(np.flatnonzero(mask.array.any((1, 2)))) == {12}
    assert dice(mask.array[12] > 0, truth[12]) > 0.9


def test_a_picture_is_marked_in_its_pixels() -> None:
    rows, columns = np.mgrid[:80, :100]
    truth = (rows - 30) ** 2 + (columns - 60) ** 2 < 15**2
    scan = medfm.Scan.from_array(np.where(truth, 90, 200)[..., None].repeat(3, 2).astype(np.uint8), modality="PHOTO")
    clicked, boxed = grow(scan, (60.0, 30.0)), enclose(scan, (40.0, 10.0), (80.0, 50.0))
    assert clicked is not None and boxed is not None
    assert dice(clicked.array[0] > 0, truth) > 0.9
    assert dice(boxed.array[0] > 0, truth) > 0.95


def test_what_cannot_be_meant_is_refused() -> None:
    scan, _ = ball()
    with pytest.raises(ScanError, match="outside"):
        grow(scan, (9999.0, 0.0, 0.0))
    with pytest.raises(ScanError, match="three coordinates"):
        grow(scan, (1.0, 2.0))
    place = scan.affine[:3] @ (40, 30, 12, 1)
    with pytest.raises(ScanError, match="too small"):
        enclose(scan, place, place)
