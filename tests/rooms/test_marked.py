"""Pictures for people: outlines lie where the mask does, on the slice that shows most of it."""

from __future__ import annotations

import numpy as np
import pytest

from medfm.image.marked import outlined_picture
from medfm.scan import Mask, Scan


@pytest.mark.parametrize("plane", ["axial", "sagittal"])
def test_outlines_are_drawn_where_the_mask_is_displayed(plane: str) -> None:
    """Marked alike in the scan's own greys, the structure is bright just where its outline is drawn."""
    slow = {"axial": [1.0, 1.0, 4.0, 1.0], "sagittal": [4.0, 1.0, 1.0, 1.0]}[plane]
    mask = np.zeros((24, 20, 16), np.uint8)
    mask[3:13, 3:8, 2:11], mask[8:20, 10:18, 6:14] = 1, 2
    scan = Scan.from_array(1000.0 * (mask > 0), affine=np.diag(slow), modality="MR")
    assert scan.best_plane == plane
    picture, index = outlined_picture(scan, Mask(mask, scan.affine, {1: "one", 2: "two"}))
    coloured = picture.max(-1) != picture.min(-1)
    inside = scan.slices()[0][0, index]
    rows, columns = (np.arange(n) * m // n for n, m in zip(picture.shape[:2], inside.shape, strict=True))
    bright = inside[rows][:, columns] > 500
    assert coloured.any() and not coloured[~bright].any()
    assert len(np.unique(picture[coloured], axis=0)) == 2
    fullest = [np.count_nonzero(layer) for layer in scan.slices()[0][0]]
    assert fullest[index] == max(fullest)


def test_a_picture_without_slices_has_outlines_too() -> None:
    mask = np.zeros((1, 30, 40), np.uint8)
    mask[0, 10:20, 15:30] = 1
    scan = Scan.from_array(np.zeros((30, 40), np.float32))
    picture, index = outlined_picture(scan, Mask(mask, scan.affine, {1: "thing"}))
    rows, columns = np.nonzero(picture.max(-1) != picture.min(-1))
    height, width = picture.shape[:2]
    assert index == 0
    assert (rows.min() / height, rows.max() / height) == pytest.approx((10 / 30, 20 / 30), abs=0.01)
    assert (columns.min() / width, columns.max() / width) == pytest.approx((15 / 40, 30 / 40), abs=0.01)
