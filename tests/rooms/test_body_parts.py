"""A part of the body that a scan shows, what can lie in it, and which model outlines it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import medfm
from medfm.grid import GridPrepare
from medfm.predict.segmenting import fitting
from medfm.scan import Scan


@pytest.mark.parametrize(
    ("labels", "part", "kept"),
    [
        (["liver", "Brain Edema"], "abdomen", {1}), (["Liver", "Brain Edema"], None, {1, 2}),
        (["hippocampus", "Brain Edema"], "abdomen", {1}), (["Left Eye", "Brain Edema"], "abdomen", {1, 2}),
    ],
)  # fmt: skip
def test_what_the_part_of_the_body_cannot_hold_is_left_out(labels: list[str], part: str | None, kept: set[int]) -> None:
    """Unless that is all the model knows: then the scan is taken for another part than it is."""
    scan = Scan.from_array(np.ones((4, 6, 8), np.float32), affine=np.eye(4), modality="MR", body_part=part)
    both = np.repeat(np.uint8([1, 1, 2, 2]), 48).reshape(4, 6, 8)
    model: Any = SimpleNamespace(
        labels=labels, preparation=GridPrepare(), label=lambda grid, *, flip: both.copy(), name="", eval=lambda: None
    )
    mask = medfm.segment(model, scan)
    assert set(mask.labels) == kept
    assert set(np.unique(mask.array).tolist()) - {0} == kept


@pytest.mark.parametrize(("mm", "kept"), [(5.0, {1}), (150.0, {1, 2})])
def test_where_the_part_is_not_known_most_of_what_is_outlined_tells_it(mm: float, kept: set[int]) -> None:
    """An abdomen of unknown part had a larynx; of a whole body nothing is left out."""
    scan = Scan.from_array(np.ones((4, 6, 8), np.float32), affine=np.diag([3, 3, mm, 1]), modality="MR")
    found = np.repeat(np.uint8([1, 1, 1, 2]), 48).reshape(4, 6, 8)
    model: Any = SimpleNamespace(
        labels=["Liver", "Larynx"], preparation=GridPrepare(), label=lambda grid, *, flip: found.copy(), name="",
        eval=lambda: None,
    )  # fmt: skip
    assert set(medfm.segment(model, scan).labels) == kept


@pytest.mark.parametrize(
    ("modality", "part", "slices", "pixels", "model"),
    [
        ("MR", "head", 60, 80, "brain"), ("MR", None, 60, 80, "brain"), ("MR", "head", 1, 80, "organ-outlines"),
        ("MR", "abdomen", 60, 80, "organ-outlines"), ("MR", None, 60, 140, "organ-outlines"),
        ("CT", None, 1, 80, "organ-outlines"), ("CT", None, 1, 30, None),
        ("US", None, 1, 80, None), ("PHOTO", None, 1, 80, None),
    ],
)  # fmt: skip
def test_a_scan_is_outlined_by_the_model_made_for_its_kind(
    modality: str, part: str | None, slices: int, pixels: int, model: str | None
) -> None:
    """`medfm segment` took `brain` for everything and then spoke of its atlas."""
    voxels = np.zeros((slices, pixels, pixels), np.int16)
    assert fitting(Scan.from_array(voxels, spacing=(2.5, 2.5, 2.5), modality=modality, body_part=part)) == model
