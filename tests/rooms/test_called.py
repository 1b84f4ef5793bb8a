"""What a verb says of a scan that its model should not be shown."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest

import medfm
from medfm.errors import ScanError, UnlikeTraining


@pytest.fixture(scope="module")
def dose() -> medfm.Scan:
    """A real RT dose grid, of pydicom's test files."""
    return medfm.Scan.read(str(pydicom.data.get_testdata_file("rtdose.dcm")))


def test_doses_are_no_image(dose: medfm.Scan) -> None:
    with pytest.raises(ScanError, match=r"doses of a radiotherapy plan \(RTDOSE\), no image"):
        medfm.segment(medfm.load_segmenter("hippocampus"), dose)


def test_a_notebook_is_warned_of_another_kind_of_scan() -> None:
    cells, grey = medfm.load_detector("cells"), medfm.Scan.from_array(np.full((64, 64), 90, np.uint8))
    with pytest.warns(UnlikeTraining, match="cells was trained on photographs in colour; this is none"):
        medfm.detect(cells, grey)
    smear = np.random.default_rng(0).integers(0, 255, (3, 1, 64, 64), dtype=np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnlikeTraining)
        medfm.detect(cells, medfm.Scan.from_array(smear))


def test_the_command_line_says_it_once_and_as_a_note(tmp_path: Path) -> None:
    file = tmp_path / "grey.npy"
    np.save(file, np.full((64, 64), 90, np.uint8))
    command = [sys.executable, "-m", "medfm", "detect", str(file), "--task", "cells"]
    said = " ".join(subprocess.run(command, capture_output=True, text=True, check=True).stderr.split())
    assert said.count("note: cells was trained on photographs in colour; this is none.") == 1
    assert "UnlikeTraining" not in said
