"""What a file does not say: estimated from its values, and left open where they do not tell."""

from __future__ import annotations

import numpy as np
import pytest

from medfm.scan import Scan
from medfm.scan.estimate import looks_like_labels


def _body(shape: str, spacing: tuple[float, float, float], *, height: float = 180.0) -> np.ndarray:
    """(D, H, W) of `height` mm and 240 x 240 mm across (a trunk: 400), of noise around and structures within."""
    wide = 400.0 if shape == "trunk" else 240.0
    w, h, d = (round(side / mm) for side, mm in zip((wide, wide, height), spacing, strict=True))
    z, y, x = np.meshgrid(
        (np.arange(d) + 0.5) * spacing[2], (np.arange(h) + 0.5) * spacing[1] - wide / 2,
        (np.arange(w) + 0.5) * spacing[0] - wide / 2, indexing="ij",
    )  # fmt: skip
    inside = {
        "head": ((x / 75) ** 2 + (y / 95) ** 2 + ((z - 90) / 80) ** 2 < 1) | ((np.hypot(x, y) < 55) & (z < 90)),
        "limb": np.hypot(x, y) < 60, "trunk": (x / 170) ** 2 + (y / 110) ** 2 < 1,
    }[shape]  # fmt: skip
    noise = np.random.default_rng(0).normal(0, 20, inside.shape)
    return np.where(inside, 500 + 150 * np.sin(x / 9) * np.cos(z / 7), 0) + np.abs(noise)


def _read(values: np.ndarray, spacing: tuple[float, float, float]) -> Scan:
    return Scan.from_array(values.astype(np.float32), affine=np.diag([*spacing, 1.0]))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.9, 0.9, 5.0), (3.0, 1.0, 1.0)])
def test_mr_of_a_head_is_told_by_its_size_and_its_crown(spacing: tuple[float, float, float]) -> None:
    scan = _read(_body("head", spacing), spacing)
    assert (scan.modality, scan.body_part) == ("MR", "head")
    assert {"modality", "body_part"} <= scan.estimated


@pytest.mark.parametrize("shape", ["limb", "trunk"])
def test_mr_of_something_else_stays_open(shape: str) -> None:
    spacing = (1.5, 1.5, 3.0)
    assert _read(_body(shape, spacing), spacing).body_part is None


def test_a_slab_without_the_crown_stays_open() -> None:
    spacing = (1.0, 1.0, 4.0)
    slab = _body("head", spacing)[5:25]
    assert _read(slab, spacing).body_part is None


def test_the_top_is_where_the_affine_says() -> None:
    """A slab of the crown alone is a dome on one side and cut off on the other."""
    crown = _body("head", (1.5, 1.5, 1.5))[60:].astype(np.float32)
    up, down = np.diag([1.5, 1.5, 1.5, 1.0]), np.diag([1.5, 1.5, -1.5, 1.0])
    assert Scan.from_array(crown, affine=up).body_part == "head"
    assert Scan.from_array(crown[::-1], affine=down).body_part == "head"
    assert Scan.from_array(crown, affine=down).body_part is None


def test_a_picture_of_few_greys_is_no_label_map() -> None:
    greys = np.round(_body("head", (3.0, 3.0, 3.0)) / 12).clip(0, 80)[None]
    labels = (greys > 20).astype(np.float32) * (1 + (np.arange(80) // 10)[None, None, None])
    assert np.unique(greys).size > 20
    assert not looks_like_labels(greys)
    assert looks_like_labels(labels)
