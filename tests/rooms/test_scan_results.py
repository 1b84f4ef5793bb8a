"""Results: checked, and plain JSON on request."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medfm.errors import ShapeError
from medfm.scan import Alignment, Answer, Box, Mask


def test_an_answer_with_evidence_is_plain_json() -> None:
    array = np.zeros((2, 3, 4), np.uint8)
    array[0, 0, :2] = 5
    mask = Mask(array, np.diag([10.0, 10.0, 10.0, 1.0]), {5: "liver", 6: "spleen"})
    box = Box("liver", (0.0, 1.0, 2.0), (3.0, 4.0, 5.0), score=np.float32(0.5))
    answer = Answer("The liver is in view.", confidence=0.75, evidence=(box, mask))
    plain = json.loads(json.dumps(answer.to_dict()))
    assert plain["evidence"][0] == {
        "kind": "box", "label": "liver", "low": [0, 1, 2], "high": [3, 4, 5], "score": 0.5, "slice": None,
    }  # fmt: skip
    assert plain["evidence"][1]["labels"]["5"] == {"name": "liver", "voxels": 2, "ml": pytest.approx(2)}
    assert plain["evidence"][1]["labels"]["6"]["voxels"] == 0
    assert (plain["abstained"], plain["reason"]) == (False, None)


def test_a_notebook_shows_no_arrays() -> None:
    array = np.zeros((2, 30, 40), np.uint8)
    array[0, 0, :2] = 5
    mask = Mask(array, np.diag([10.0, 10.0, 10.0, 1.0]), {5: "liver", 6: "spleen"})
    assert repr(mask) == "Mask(2 x 30 x 40: liver 2.0 ml)"
    assert "Mask(2 x 30 x 40: liver 2.0 ml)" in repr(Answer("Yes", confidence=0.9, evidence=(mask,)))
    shifted = np.eye(4)
    shifted[:3, 3] = 1, 2, 3
    field = np.zeros((3, 2, 2, 2), np.float32)
    field[0, 0, 0, 0] = 4
    assert repr(Alignment(shifted, field, np.eye(4), "demons")) == (
        "Alignment(demons: a matrix that shifts by (1.0, 2.0, 3.0) mm, a field up to 4.0 mm)"
    )


def test_an_answer_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Answer("yes").text = "no"  # type: ignore[misc]


@pytest.mark.parametrize(("low", "high"), [((0, 0), (1, 1, 1)), ((0,), (1,)), ((2, 0), (1, 1))])
def test_impossible_boxes_are_refused(low: tuple[float, ...], high: tuple[float, ...]) -> None:
    with pytest.raises(ShapeError, match="orner"):
        Box("x", low, high)


def test_impossible_masks_are_refused() -> None:
    with pytest.raises(ShapeError, match="uint8"):
        Mask(np.zeros((2, 2, 2)), np.eye(4))  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="4x4"):
        Mask(np.zeros((2, 2, 2), np.uint8), np.eye(3))
