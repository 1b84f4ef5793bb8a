"""Slices as pictures: square pixels, the right side up, grey levels that show something."""

import numpy as np

from medfm.image.display import slice_picture
from medfm.scan import Scan


def test_rows_far_apart_are_stretched_to_square_pixels() -> None:
    volume = Scan.from_array(np.random.default_rng(0).normal(size=(10, 40, 40)), affine=np.diag([1.0, 1.0, 5.0, 1.0]))
    assert slice_picture(volume, 5, plane="axial", size=80).shape == (80, 80, 3)
    assert slice_picture(volume, 5, plane="coronal", size=50).shape == (50, 40, 3)
    assert slice_picture(volume, 5, plane="coronal", size=25).shape == (25, 20, 3)


def test_the_patients_right_is_on_the_left_and_anterior_on_top() -> None:
    data = np.zeros((1, 8, 8), np.float32)
    data[0, 7, 7] = 1  # anterior, right
    picture = slice_picture(Scan.from_array(data, affine=np.eye(4)), 0, plane="axial", size=8)
    assert picture[0, 0, 0] == 255
    assert picture[7, 7, 0] == 0


def test_soft_tissue_is_visible_in_ct() -> None:
    ct = np.full((2, 8, 8), -1024, np.int16)
    ct[:, 2:, 2:], ct[:, 4:, 4:] = 40, 1000
    picture = slice_picture(Scan.from_array(ct, affine=np.eye(4), modality="CT", units="HU"), 99, plane="axial", size=8)
    assert sorted(set(np.unique(picture))) == [0, 128, 255]


def test_colour_stays() -> None:
    photograph = np.zeros((8, 12, 3), np.uint8)
    photograph[..., 1] = 200
    picture = slice_picture(Scan.from_array(photograph), 0, size=12)
    assert picture.shape == (8, 12, 3)
    assert tuple(picture[0, 0]) == (0, 200, 0)
    assert tuple(slice_picture(Scan.from_array(np.zeros((4, 4), np.float32)), 0)[0, 0]) == (0, 0, 0)
