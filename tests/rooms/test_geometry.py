"""A box found on displayed slices lands where the thing is in the patient, in every plane."""

from __future__ import annotations

import numpy as np
import pytest

from medfm.image.geometry import corners_of
from medfm.scan import Scan


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_box_on_slices_is_the_box_in_the_patient(plane: str) -> None:
    data = np.zeros((10, 12, 14), np.int16)  # D, H, W
    data[2:5, 3:7, 8:10] = 1
    affine = np.array([[2.0, 0, 0, -7], [0, 1.5, 0, 11], [0, 0, 3, 5], [0, 0, 0, 1]])
    scan = Scan.from_array(data, affine=affine, modality="CT")
    shown = scan.slices(plane)[0][0]
    first, last = zip(*((float(a.min()), float(a.max() + 1)) for a in np.nonzero(shown)), strict=True)
    low, high = corners_of(scan, first, last, plane=plane)
    assert low == pytest.approx((2 * 7.5 - 7, 1.5 * 2.5 + 11, 3 * 1.5 + 5))
    assert high == pytest.approx((2 * 9.5 - 7, 1.5 * 6.5 + 11, 3 * 4.5 + 5))


def test_box_on_a_picture_stays_in_pixels() -> None:
    scan = Scan.from_array(np.zeros((30, 40), np.uint8))
    assert corners_of(scan, (0, -3, 5), (1, 12, 99), plane=None) == ((5.0, 0.0), (40.0, 12.0))
