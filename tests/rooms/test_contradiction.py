"""Answers against what the file itself says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medfm.predict.contradiction import contradiction
from medfm.scan import Scan


@pytest.fixture
def chest() -> Scan:
    values = np.random.default_rng(0).integers(-900, 300, (4, 40, 40)).astype(np.int16)
    return Scan.from_array(values, affine=np.eye(4), modality="CT", body_part="chest", units="HU")


@pytest.mark.parametrize("answer", ["Abdomen", "Pelvic cavity", "Brain", "MRI", "X-Ray", "Coronal plane"])
def test_another_part_modality_or_plane_is_contradicted(chest: Scan, answer: str) -> None:
    assert contradiction(chest, answer, plane="axial")


@pytest.mark.parametrize("answer", ["Chest", "Lung", "CT", "Transverse plane", "Neck", "Liver", "Yes", ""])
def test_what_agrees_lies_next_to_it_or_names_nothing_is_not(chest: Scan, answer: str) -> None:
    assert contradiction(chest, answer, plane="axial") is None


def test_an_estimate_is_called_one(chest: Scan) -> None:
    assert contradiction(chest, "Abdomen") == "the header says chest"
    guessed = replace(chest, estimated=frozenset({"body_part"}))
    assert contradiction(guessed, "Abdomen") == "the values in the scan suggest chest"


def test_a_picture_without_a_header_contradicts_nothing() -> None:
    scan = Scan.from_array(np.zeros((40, 40), np.uint8))
    assert not any(contradiction(scan, answer) for answer in ("MRI", "Abdomen", "Coronal plane"))
