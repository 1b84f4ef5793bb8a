"""A part of the body that a scan shows, and what can lie in it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import medfm
from medfm.grid import GridPrepare
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
