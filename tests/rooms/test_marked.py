"""Pictures for people: outlines lie where the mask does, on the slice that shows most of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medfm.image.marked import marked_picture, outlined_picture
from medfm.scan import Box, Mask, Scan


@pytest.mark.parametrize("plane", ["axial", "sagittal"])
def test_outlines_are_drawn_where_the_mask_is_displayed(plane: str) -> None:
    """Marked alike in the scan's own greys, the structure is bright just where its outline is drawn."""
    slow = {"axial": [1.0, 1.0, 4.0, 1.0], "sagittal": [4.0, 1.0, 1.0, 1.0]}[plane]
    mask = np.zeros((24, 20, 16), np.uint8)
    mask[3:13, 3:8, 2:11], mask[8:20, 10:18, 6:14] = 1, 2
    scan = Scan.from_array(1000.0 * (mask > 0), affine=np.diag(slow), modality="MR")
    assert scan.best_plane == plane
    picture, index = outlined_picture(scan, Mask(mask, scan.affine, {1: "", 2: ""}))
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
    picture, index = outlined_picture(scan, Mask(mask, scan.affine, {1: ""}))
    rows, columns = np.nonzero(picture.max(-1) != picture.min(-1))
    height, width = picture.shape[:2]
    assert index == 0
    assert (rows.min() / height, rows.max() / height) == pytest.approx((10 / 30, 20 / 30), abs=0.01)
    assert (columns.min() / width, columns.max() / width) == pytest.approx((15 / 40, 30 / 40), abs=0.01)


@pytest.mark.parametrize(("top", "left"), [(10, 15), (0, 15), (10, 39)])
def test_names_stand_above_what_they_name_or_in_it_and_within_the_picture(top: int, left: int) -> None:
    mask = np.zeros((1, 30, 40), np.uint8)
    mask[0, top:20, left:] = 1
    scan = Scan.from_array(np.zeros((30, 40), np.float32))
    plain, named = (outlined_picture(scan, Mask(mask, scan.affine, {1: name}))[0] for name in ("", "thing"))
    rows, columns = np.nonzero((plain != named).any(-1))
    edge = top * plain.shape[0] // 30
    assert len(rows) and abs(rows.max() - edge) < 20 and rows.max() - rows.min() < 20
    assert columns.max() - columns.min() > 20, "the whole word is there"


def test_no_box_hides_the_name_of_another() -> None:
    scan = Scan.from_array(np.zeros((60, 60), np.float32))
    one, across = Box("thing", (10, 30), (40, 50)), Box("thing", (11, 5), (30, 45))
    alone, nameless = (marked_picture(scan, [box]) for box in (one, replace(one, label="")))
    name = (alone != nameless).any(-1)
    both = marked_picture(scan, [one, across])
    assert name.any() and (both[name] == alone[name]).all()
