"""Outlines on simulated reconstructions: the segmenter sees what the scan holds, and only patients it never saw."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_recipes import CASCADE, PLAIN, labelled_volumes

from medfm.errors import DataError
from medfm.evaluate import outlines
from medfm.evaluate.outlines import evaluate_outlines
from medfm.reconstructor import Reconstructor
from medfm.scan import Mask, Scan
from medfm.segmenter import Segmenter

SIMULATED = {
    "MR": CASCADE,
    "coils": {
        "encoder": {"name": "stack", "inputs": 6, "channels": [4]}, "head": {"name": "unrolled", "cascades": 1},
        "physics": {"name": "mri", "acceleration": 2, "coils": 3, "separate": True},
    },
    "CT": {**PLAIN, "physics": {"name": "ct", "views": 30, "photons": 1e9, "electronic": 0}},
    "coarser": {
        "encoder": {"name": "stack", "channels": [4]}, "head": {"name": "unrolled", "consistency": "none"},
        "physics": {"name": "degraded", "factor": [1, 2, 2]},
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", SIMULATED)
def test_a_segmenter_is_shown_what_the_scan_holds(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The truth of every acquisition comes back as the scan it was: HU, or its range; coils joined, nothing moved."""
    data, shown = labelled_ct(tmp_path / "balls"), []

    def truth(model: Segmenter, scan: Scan) -> Mask:
        shown.append(scan)
        return scan.mask((scan.data[0] > scan.data.mean()).astype(np.uint8), {1: "ball"})

    monkeypatch.setattr(outlines, "segment", truth)
    monkeypatch.setattr(outlines, "_SLICES", 5)
    segmenter = Segmenter(
        encoder={"name": "conv", "channels": [4, 8]}, head={}, labels=["ball"], prepare={}, patch=[8] * 3
    )
    found = evaluate_outlines(
        Reconstructor(**SIMULATED[kind]).eval(), data, segmenter=segmenter, output=tmp_path / "out", resamples=20
    )
    scan = Scan.read(data / "images" / "ball.nii.gz")
    d, h, w = shown[0].data.shape[1:]
    expected = scan.data[0, :d, :h, :w].astype(np.float64)
    assert (d, h, w) == ((9, 24, 28) if kind == "coarser" else (9, 25, 28))
    if kind != "CT":
        expected = (expected - expected.min()) / (expected.max() - expected.min())
    assert np.corrcoef(shown[0].data.ravel(), expected.ravel())[0, 1] > 0.999
    assert np.abs(shown[0].data - expected).mean() < (1 if kind == "CT" else 0.01)
    assert found["full"]["dice"]["value"] > 0.99
    assert {"start", "network", "classical"} <= set(found) and found["data"]["cases"] == 1


def labelled_ct(folder: Path) -> Path:
    """A Decathlon data set of one ball of water in air, of sides that nothing divides."""
    d, h, w = np.meshgrid(np.arange(9), np.arange(25), np.arange(28), indexing="ij")
    inside = (d - 4) ** 2 + ((h - 11) / 2) ** 2 + ((w - 15) / 2) ** 2 < 16
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    Scan.from_array(np.where(inside, 0.0, -1000.0).astype(np.float32), affine=affine, units="HU", modality="CT").write(
        folder / "images" / "ball.nii.gz"
    )
    Mask(inside.astype(np.uint8), affine).write(folder / "labels" / "ball.nii.gz")
    about = {"labels": {"1": "ball"}, "training": [{"image": "images/ball.nii.gz", "label": "labels/ball.nii.gz"}]}
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


def test_outlines_of_patients_the_segmenter_never_saw(tmp_path: Path) -> None:
    segmenter = Segmenter(
        encoder={"name": "conv", "channels": [4, 8]}, head={}, labels=["ball", "core"], prepare={}, patch=[24, 24, 24],
        about={"held out": ["case1"]},
    ).eval()  # fmt: skip
    data, about = labelled_volumes(tmp_path / "balls", count=2), {"segmenter": segmenter, "output": tmp_path / "out"}
    model = Reconstructor(**CASCADE)
    found = evaluate_outlines(model, data, held_out=True, **about)
    assert found["data"]["cases"] == 1 and found["full"]["psnr"]["value"] > 100
    with pytest.raises(DataError, match="no HU"):
        evaluate_outlines(Reconstructor(**PLAIN), data, **about)
    segmenter.settings["labels"] = segmenter.labels = ["else"]
    with pytest.raises(DataError, match="no class in common"):
        evaluate_outlines(model, data, **about)
