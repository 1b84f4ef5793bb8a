"""Lesions of the brain: from a map of both halves to findings with a side, a volume and a score, and into a report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_recipes import label_maps

from medfm.assistant.conversation import Conversation
from medfm.assistant.drafts import drafted
from medfm.errors import DataError
from medfm.evaluate import lesions as evaluate
from medfm.evaluate.lesions import evaluate_lesions, fit_score
from medfm.finder import LesionFinder
from medfm.grid import GridPrepare
from medfm.language.wording import facts_of, read, write
from medfm.nn.tissues import CHANNELS, GREYS
from medfm.objectives.planted import Planted
from medfm.predict import lesions
from medfm.predict.evidence import Candidate, Look
from medfm.predict.lesions import BRAIN_LESION, find_lesions
from medfm.predict.reporting import compose
from medfm.scan import Finding, Mask, Scan

LIMITS = {"state": 0.5, "mention": 0.3, "absent": 0.15}


class Bright(LesionFinder):
    """Takes what is bright for a lesion, of the side of the grid that it lies on."""

    def __init__(self) -> None:
        self.score, self.name = [1.0, 0.0, 0.0], "bright"

    def probabilities(self, scan: Scan) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        bright = GridPrepare(spacing=(3.0, 3.0, 3.0), intensity="range")(scan).numbers()[0].numpy()
        return bright, np.broadcast_to(np.arange(bright.shape[2]) < bright.shape[2] / 2, bright.shape)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> LesionFinder:
    made = Bright()
    monkeypatch.setattr(lesions, "lesion_model", lambda: made)
    return made


def scan(*balls: tuple[int, float]) -> Scan:
    """A field of 96 mm at 2 mm with a ball of 20 mm at each of the columns, as bright as it says."""
    axes = np.stack(np.meshgrid(*[np.arange(48)] * 3, indexing="ij"))
    values = np.zeros((48, 48, 48), np.uint8)
    for column, bright in balls:
        far = np.linalg.norm(axes - np.array([24, 24, column])[:, None, None, None], axis=0)
        values[far < 5] = round(255 * bright)
    return Scan.from_array(values, affine=np.diag([2.0, 2, 2, 1]), modality="MR")


def test_each_lesion_has_its_side_volume_score_and_mask(model: LesionFinder) -> None:
    first, second = find_lesions(scan((12, 0.95), (38, 0.6)))
    assert (first.side, second.side) == ("left", "right")
    assert first.confidence == pytest.approx(0.95, abs=0.02) and second.confidence == pytest.approx(0.6, abs=0.02)
    assert first.ml == pytest.approx(4 / 3 * np.pi, rel=0.25) and first.size_mm == pytest.approx(20, abs=4)
    mask = next(item for item in first.evidence if isinstance(item, Mask))
    assert mask.array[24, 24, 12] and not mask.array[24, 24, 38]


def test_a_score_is_fitted_to_height_and_volume(model: LesionFinder) -> None:
    model.score = [0.0, 0.0, -2.0]
    assert find_lesions(scan((12, 0.9)))[0].confidence == pytest.approx(1 / (1 + np.exp(2)))


def test_a_dark_scan_has_one_finding_that_none_is_there_and_no_model_has_none(
    model: LesionFinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,) = find_lesions(scan((12, 0.02)))
    assert found.confidence == 0 and not found.evidence
    monkeypatch.setattr(lesions, "lesion_model", lambda: None)
    assert find_lesions(scan((12, 0.95))) == []


def test_lesions_are_looked_for_once(model: LesionFinder, monkeypatch: pytest.MonkeyPatch) -> None:
    held = scan((12, 0.95))
    found = find_lesions(held)
    monkeypatch.setattr(lesions, "parts", None)
    assert find_lesions(held) is found


def test_a_report_states_what_is_shown_and_guesses_what_is_not_sure(model: LesionFinder) -> None:
    found = find_lesions(scan((12, 0.95), (38, 0.45)))
    seen = Look("MRI", "Head", "axial", {}, tuple(Candidate(f, BRAIN_LESION, 0.0, 0.0) for f in found), volume=True)
    (head,) = compose(seen, LIMITS).findings
    stated, guess = head.sentences
    assert (
        stated.text.startswith("There is a region of unusual brightness of ")
        and "ml in the left half of the brain" in stated.text
    )
    assert not stated.abstained and guess.abstained and "right" in guess.text
    assert facts_of(read(stated.text)) == {(BRAIN_LESION, "brain", "left", True)}


def test_a_brain_without_lesions_is_not_called_normal() -> None:
    seen = Look(
        "MRI", "Head", "axial", {}, (Candidate(Finding(BRAIN_LESION, "brain", confidence=0.02), "", 0, 0),), volume=True
    )
    draft = compose(seen, LIMITS)
    assert not draft.findings
    assert [s.text for s in draft.impression.sentences] == [
        "No region of unusual brightness is seen.",
        lesions.LOOKED_FOR,
    ]


def test_figures_hold_what_was_found_against_what_was_planted(model: LesionFinder, tmp_path: Path) -> None:
    maps = [str(path) for path in label_maps(tmp_path / "heads", count=1)]
    metrics = evaluate_lesions(model, maps, output=tmp_path / "out", images=2, resamples=20)
    cases = [json.loads(line) for line in (tmp_path / "out" / "cases.jsonl").read_text().splitlines()]
    assert [bool(case["lesion"]) for case in cases] == [False, True]
    assert metrics["overall"]["n"] == 2 and metrics["sensitivity"]["n"] == metrics["specificity"]["n"] == 1
    assert metrics["specificity"]["value"] == float(not any(p["score"] >= 0.5 for p in cases[0]["parts"]))
    assert len(fit_score(tmp_path / "out" / "cases.jsonl")) == 3


def test_a_hidden_lesion_is_no_fault_and_a_visible_one_is_painted_beside_it(
    model: LesionFinder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contrasts = iter([0.2, 0.2, 0.4, 3.0, 3.0])  # each kept scan is measured twice
    monkeypatch.setattr(evaluate, "_contrast", lambda made: next(contrasts))
    maps = [str(path) for path in label_maps(tmp_path / "heads", count=1)]
    metrics = evaluate_lesions(model, maps, output=tmp_path / "out", images=2, resamples=20)
    cases = [json.loads(line) for line in (tmp_path / "out" / "cases.jsonl").read_text().splitlines()]
    assert [case["case"] for case in cases] == ["subject_0-0", "subject_0-1", "subject_0-1-again"]
    assert metrics["overall"]["n"] == metrics["any_contrast"]["overall"]["n"] == 2
    assert metrics["hidden"]["value"] == 1.0 and metrics["sensitivity"]["n"] == 1


def test_a_mirrored_or_inverted_scan_has_the_same_lesions(tmp_path: Path) -> None:
    encoder = {"name": "conv", "ndim": 3, "channels": [4, 8], "down": "stride"}
    finder = LesionFinder(encoder=encoder, head={}, brain="brain", spacing=6.0).eval()
    x = torch.randn(1, CHANNELS, *finder.ground.tissues.brain.shape, generator=torch.Generator().manual_seed(0))
    inverse = torch.cat([-x[:, :GREYS], x[:, GREYS:]], 1)
    first = finder.chances(x)
    assert torch.allclose(finder.chances(inverse), first, atol=1e-3)
    assert torch.allclose(finder.chances(x.flip(4)).flip(4), first, atol=1e-3) and first.std() > 1e-3


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_painted_scans_lie_on_the_atlas_and_hold_lesions_as_often_as_asked(share: float, tmp_path: Path) -> None:
    one, other = label_maps(tmp_path, count=2)
    encoder = {"name": "conv", "ndim": 3, "channels": [4, 8], "down": "stride"}
    learned = Planted(
        model={"encoder": encoder, "head": {}, "brain": "brain", "spacing": 6.0}, share=share,
        data={"train": [one], "validate": [other]}, distract=0.0, warp=0.0,
    )  # fmt: skip
    batches = [learned.collate([number]) for number in range(4)]
    brain = learned.network.ground.tissues.brain > 0.05
    for batch in batches:
        assert batch["x"].isfinite().all() and batch["x"].shape[2:] == batch["target"].shape[2:] == brain.shape
        assert (batch["target"].amax() > 0) == (share > 0)
        assert batch["target"][0, 0][~brain].sum() <= 0.3 * batch["target"].sum()
    assert all(torch.equal(learned.collate([0])[key], batches[0][key]) for key in batches[0])


def test_half_of_the_patches_are_cut_at_a_lesion(tmp_path: Path) -> None:
    one, other = label_maps(tmp_path, count=2)
    encoder = {"name": "conv", "ndim": 3, "channels": [4, 8], "down": "stride"}
    learned = Planted(
        model={"encoder": encoder, "head": {}, "brain": "brain", "spacing": 6.0}, share=1.0, samples=4, patch=4,
        repeats=8, data={"train": [one], "validate": [other]}, distract=0.0, warp=0.0,
    )  # fmt: skip
    batches = [learned.collate(numbers) for numbers in learned.batches]
    assert [batch["x"].shape for batch in batches] == [(8, CHANNELS, 4, 4, 4)] * 4
    held = torch.cat([batch["target"].flatten(1).any(1) for batch in batches]).float().mean()
    assert held >= 0.4, "cut anywhere in these brains, a fifth of such patches holds one"
    assert learned(batches[0])["loss"].isfinite()


def test_two_lesions_have_two_sentences(model: LesionFinder) -> None:
    assert len(write(find_lesions(scan((12, 0.95), (38, 0.9))))) == 2


def test_a_drafted_lesion_is_drawn_and_its_volume_told_once(model: LesionFinder) -> None:
    opened = scan((12, 0.95))
    found = find_lesions(opened)
    seen = Look("MRI", "Head", "axial", {}, tuple(Candidate(f, BRAIN_LESION, 0.0, 0.0) for f in found), volume=True)
    talk = Conversation("a")
    talk.open(opened)
    talk.report = compose(seen, LIMITS)
    talk.masks += [("current", item) for item in found[0].evidence if isinstance(item, Mask)]
    (head,) = [part for part in drafted(talk)["sections"] if part["title"] == "Head"]
    (item,) = head["sentences"][0]["evidence"]
    assert (item["label"], item["mask"], item["value"]) == (BRAIN_LESION, 0, 1)
    assert item["number"] == f"{found[0].ml:.2f} ml" and item["place"] is not None


def test_a_model_that_suspects_nothing_cannot_be_given_a_score(tmp_path: Path) -> None:
    (tmp_path / "cases.jsonl").write_text('{"lesion": null, "parts": []}\n')
    with pytest.raises(DataError, match="in any of 1 scans"):
        fit_score(tmp_path / "cases.jsonl")
