"""What a report says of a brain's outlines: their millilitres, their sides, and nothing where they do not fit."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from medfm import assets
from medfm.errors import ScanError
from medfm.predict import brain, reporting
from medfm.predict.evidence import Candidate, Look
from medfm.predict.reporting import compose
from medfm.predict.segmenting import segment
from medfm.scan import Finding, Mask, Measurement, Scan
from medfm.segmenter import load_segmenter

LIMITS = {"state": 0.5, "mention": 0.3, "absent": 0.15}


@pytest.fixture(scope="module")
def labels() -> list[str]:
    return load_segmenter("brain").labels


def outlined(labels: list[str], *, left: int, right: int, tissue: int = 1000) -> Scan:
    """A scan of 10 ml a voxel, whose outlines have these numbers of voxels of the hippocampi, and cortex."""
    array = np.zeros((12, 12, 12), np.uint8)
    names = ["left hippocampus"] * left + ["right hippocampus"] * right
    names += [name for name in labels if "hippocampus" not in name] + ["left cerebral cortex"] * (tissue // 20)
    names += ["right cerebral cortex"] * (tissue // 20)
    array.flat[: len(names)] = [labels.index(name) + 1 for name in names]
    scan = Scan.from_array(array.astype(np.int16), affine=np.diag([10, 10, 100, 1]), modality="MR")
    brain._outlines[scan] = Mask(array, scan.affine, dict(enumerate(labels, 1)))
    return scan


def test_each_group_has_its_millilitres_and_a_mask_of_its_own_structures(labels: list[str]) -> None:
    said = brain.describe(outlined(labels, left=3, right=1))
    (temporal,) = [s for s in said if s.text.startswith("Medial temporal")]
    assert "hippocampus 30.0 ml left, 10.0 ml right" in temporal.text
    (mask,) = temporal.evidence
    assert set(mask.labels.values()) == {
        f"{side} {n}" for side in ("left", "right") for n in ("hippocampus", "amygdala")
    }
    assert np.count_nonzero(mask.array) == 6
    measured = [item for f in temporal.findings if f.organ == "hippocampus" for item in f.evidence]
    assert all(isinstance(item, Measurement) for item in measured)
    assert [item.label for item in measured] == ["left hippocampus", "right hippocampus"]
    assert [item.value for item in measured] == pytest.approx([30, 10])


def test_only_a_difference_beyond_the_error_of_the_outlines_is_told(labels: list[str]) -> None:
    assert "hippocampus (larger on the left)" in brain.describe(outlined(labels, left=3, right=1))[-1].text
    assert brain.describe(outlined(labels, left=2, right=2))[-1].text.startswith("No structure differs")


def test_outlines_that_make_no_brain_are_declined(labels: list[str]) -> None:
    (said,) = brain.describe(outlined(labels, left=1, right=1, tissue=100))
    assert said.abstained and "do not fit" in (said.reason or "")


def test_only_mr_of_a_whole_head_is_one() -> None:
    head = Scan.read(assets.root() / "apps" / "chat" / "demo" / "brain_t1.nii.gz")
    assert brain.is_brain_volume(head, "Head")
    assert not brain.is_brain_volume(head, "Abdomen")
    crop = Scan.from_array(head.data[:, :20], affine=head.affine, modality="MR")
    assert not brain.is_brain_volume(crop, "Head")
    assert not brain.is_brain_volume(Scan.from_array(head.data[0, 40]), "Head")


def test_a_scan_far_larger_than_a_head_is_refused_before_it_fills_the_memory() -> None:
    scan = Scan.from_array(np.ones((30, 30, 30), np.int16), affine=np.diag([50, 50, 50, 1]), modality="MR")
    with pytest.raises(ScanError, match="this scan is 1500 x 1500 x 1500 mm"):
        segment(load_segmenter("brain"), scan)


def test_a_scan_takes_its_outlines_with_it(labels: list[str]) -> None:
    before = len(brain._outlines)
    scan = outlined(labels, left=1, right=1)
    assert len(brain._outlines) == before + 1
    del scan
    assert len(brain._outlines) == before


@pytest.mark.parametrize(("sure", "stated"), [({"region": 0.57}, False), ({"region": 0.9}, True), ({}, True)])
def test_of_a_volume_of_an_uncertain_part_nothing_is_stated(sure: dict[str, float | None], stated: bool) -> None:
    liver = Candidate(Finding("in view", "liver", confidence=0.9), "organ", 3.0, 0.5)
    seen = Look("MRI", "Abdomen", "axial", sure, (liver,), volume=True)
    draft = compose(seen, LIMITS, needed=0.74)
    (said,) = draft.findings[0].sentences
    assert said.findings and said.abstained is not stated
    assert stated or "not certain (57%)" in (said.reason or "")
    unsure = Candidate(Finding("in view", "bladder", confidence=0.6), "organ", 3.0, 0.5)
    assert compose(replace(seen, candidates=(liver, unsure)), LIMITS, needed=0.74).findings == draft.findings
    picture = compose(replace(seen, volume=False), LIMITS, needed=0.74)
    assert not picture.findings[0].sentences[0].abstained


def test_what_was_a_guess_in_the_prior_volume_has_not_gone_since(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report states no liver cancer of a volume, so its comparison may not say that one is no longer seen."""
    cancer = Candidate(Finding("liver cancer", "liver", confidence=0.9), "CT Abdomen", 3.0, 0.5)
    now = Look("CT", "Abdomen", "axial", {}, (), volume=True)
    monkeypatch.setattr(reporting, "look", lambda model, scan, plane: replace(now, candidates=(cancer,)))
    model = SimpleNamespace(config=SimpleNamespace(abstain=0.74))
    scan = Scan.from_array(np.zeros((4, 8, 8), np.int16), modality="CT")
    said = reporting._comparison(model, compose(now, LIMITS), now, scan, scan, LIMITS, None)  # type: ignore[arg-type]
    assert not any("liver cancer" in sentence.text.lower() for sentence in said.sentences)
