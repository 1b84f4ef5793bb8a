"""Structures in a conversation: outlined and measured by models that fit, marked in any plane."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from medfm.assistant import Call, Conversation, run_tool, task_models
from medfm.assistant.suggestions import suggestions
from medfm.grid import GridPrepare
from medfm.predict import outline_marked
from medfm.prompter import Drawn
from medfm.scan import Scan

BLIND = SimpleNamespace(vision=None, name="somebody else's")  # a model that points at nothing
AFFINE = np.array([[1.0, 0, 0, -20], [0, 1.0, 0, 30], [0, 0, 2.0, 5], [0, 0, 0, 1.0]])


def balls(left: float = 6.0) -> Scan:
    """Two balls: `left` and 6 mm of radius, value 200 on the patient's left and 100 on the right."""
    d, h, w = np.mgrid[:20, :40, :48]
    values = np.zeros(d.shape, np.uint8)
    for place, radius, value in ((12, left, 200), (34, 6.0, 100)):
        values[(w - place) ** 2 + (h - 20) ** 2 + ((d - 10) * 2) ** 2 < radius**2] = value
    return Scan.from_array(values, affine=AFFINE, modality="MR")


class Rule:
    """Outlines by value: as a segmentation model, and as a prompted one what is bright in the box or at the point."""

    name, labels, patch, preparation = "rule", ["left ball", "right ball"], (20, 40, 48), GridPrepare()

    def misfit(self, sides: Any) -> bool:
        return False

    def label(self, grid: Any, *, flip: bool = False) -> np.ndarray:
        return (np.asarray(grid.array[0]) > 150) + 2 * (np.asarray(grid.array[0]) == 100).astype(np.uint8)

    def draw(self, grid: Any, index: int, *, box: Any = None, points: Any = ()) -> Drawn:
        bright = np.asarray(grid.array[0, index]) > 50
        (h, w), kept = bright.shape, np.zeros(bright.shape, bool)
        left, top, right, bottom = box or (
            points[0][0] - 0.2,
            points[0][1] - 0.2,
            points[0][0] + 0.2,
            points[0][1] + 0.2,
        )
        rows, columns = (slice(max(0, round(a)), round(b)) for a, b in ((top * h, bottom * h), (left * w, right * w)))
        kept[rows, columns] = bright[rows, columns]
        return Drawn(kept.astype(np.float32), 0.9 if kept.any() else 0.0)


@pytest.fixture
def rule(monkeypatch: pytest.MonkeyPatch) -> Rule:
    model = Rule()
    monkeypatch.setattr(task_models, "segmenters_for", lambda name, scan: [model] if "ball" in name else [])
    monkeypatch.setattr(task_models, "prompter", lambda: model)
    return model


def said(talk: Conversation, tool: str, **arguments: Any) -> Any:
    *_, turn = run_tool(talk, Call(tool, arguments), BLIND)  # type: ignore[arg-type]
    return turn


def test_of_a_model_of_slices_it_is_told_that_a_volume_is_to_be_looked_through(
    rule: Rule, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Conversation("test")
    talk.open(balls(left=9.0))
    assert said(talk, "segment", structure="left ball").note is None
    monkeypatch.setattr(rule, "patch", (1, 40, 48))
    assert "single slices" in said(talk, "segment", structure="left ball").note


def test_a_model_that_fits_measures_in_millilitres_and_says_what_changed(rule: Rule) -> None:
    talk = Conversation("test")
    talk.open(balls(left=9.0))
    one = said(talk, "measure", structure="left ball")
    assert [item.label for item in one.evidence] == ["left ball"]
    assert float(one.evidence[0].number.split()[0]) == pytest.approx(4 / 3 * np.pi * 9**3 / 1000, rel=0.05)
    talk.open(balls(left=6.0), prior=True)
    change = said(talk, "compare", structure="balls")
    assert "left ball: Larger by 2.1 ml" in change.text and "right ball: Unchanged" in change.text
    assert {(item.label, item.which) for item in change.evidence} >= {("left ball", "prior"), ("left ball", "current")}
    assert [which for which, _ in talk.masks] == ["current", "current", "prior"]


def test_a_model_of_smaller_fields_of_view_is_not_used(rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule, "patch", (4, 4, 4))
    talk = Conversation("test")
    talk.open(balls())
    assert "Cut it to the region" in said(talk, "segment", structure="ball").text
    assert "none of what this model can point at" in said(talk, "measure", structure="ball").text


def test_a_click_in_air_of_ct_is_told_by_brightness_and_elsewhere_by_the_model(rule: Rule) -> None:
    bright = balls()
    values = np.where(bright.data[0] > 150, -800, np.where(bright.data[0] > 50, 200, 40)).astype(np.int16)
    scan = Scan.from_array(values, affine=AFFINE, modality="CT", units="HU")
    talk = Conversation("test")
    talk.open(scan)
    lung, bone = ((scan.affine @ (column, 20, 10, 1))[:3].tolist() for column in (12, 34))
    assert "like brightness" in said(talk, "segment", point=lung).text
    assert "by the model rule" in said(talk, "segment", point=bone).text


@pytest.mark.parametrize("across", [0, 1, 2])
def test_what_is_marked_in_any_plane_is_outlined_whole(rule: Rule, across: int) -> None:
    scan = balls()
    low, high = (np.array([12, 20, 10.0]) + reach for reach in (-8, 8))  # (w, h, d) around the left ball
    for corner in (low, high):
        corner[2 - across] = (12, 20, 10)[2 - across]
    ends = [scan.affine[:3] @ (*corner.clip(0), 1) for corner in (low, high)]
    box = tuple(np.stack(ends).min(0)), tuple(np.stack(ends).max(0))
    mask = outline_marked(rule, scan, box=box)  # type: ignore[arg-type]
    assert mask is not None
    assert np.array_equal(mask.array > 0, scan.data[0] == 200)
    np.testing.assert_allclose(mask.affine, scan.affine)


@pytest.mark.parametrize(("across", "plane"), [(0, "axial"), (1, "coronal"), (2, "sagittal")])
def test_a_model_sees_what_is_marked_as_it_is_shown(
    rule: Rule, monkeypatch: pytest.MonkeyPatch, across: int, plane: str
) -> None:
    scan, seen, prepare = balls(), [], rule.preparation
    monkeypatch.setattr(rule, "preparation", lambda shown: seen.append(shown) or prepare(shown))
    low, high = np.array([6, 14, 4, 1.0]), np.array([18, 26, 16, 1.0])
    high[2 - across] = low[2 - across] = (12, 20, 10)[2 - across]
    ends = [(scan.affine @ corner)[:3] for corner in (low, high)]
    outline_marked(rule, scan, box=(tuple(ends[0]), tuple(ends[1])))  # type: ignore[arg-type]
    np.testing.assert_array_equal(seen[0].data, scan.slices(plane)[0])


def test_a_click_asks_the_prompted_model_and_brightness_where_it_finds_nothing(rule: Rule) -> None:
    talk = Conversation("test")
    talk.open(balls())
    place = (AFFINE[:3] @ (34, 20, 10, 1)).tolist()
    turn = said(talk, "segment", point=place)
    assert "Outlined by the model rule" in turn.text
    assert np.array_equal(talk.masks[0][1].array > 0, talk.opened.data[0] == 100)
    rule.draw = lambda grid, index, **_: Drawn(np.zeros(grid.shape[1:], np.float32), 0.0)  # type: ignore[method-assign]
    assert "like brightness" in said(talk, "segment", point=place).text


def test_labels_follow_the_side_that_was_said() -> None:
    labels = ["left hippocampus", "right hippocampus", "brain stem", "lesion"]
    assert task_models.labels_for("the left hippocampus", labels) == ["left hippocampus"]
    assert task_models.labels_for("hippocampus", labels) == labels[:2]
    assert task_models.labels_for("lesions", labels) == ["lesion"]


def test_a_model_is_found_by_its_name_among_other_words_and_named_where_none_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    about = {"kind": "segment", "labels": ["left hippocampus", "right hippocampus"], "about": {"modalities": ["MR"]}}
    monkeypatch.setattr(task_models, "_folders", lambda: [(Path("brain"), about)])
    monkeypatch.setattr(task_models, "_segmenter", lambda folder: folder)
    for words in ("brain structures", "all brain parts", "brain", "hippocampus volume"):
        assert task_models.segmenters_for(words, balls()) == ["brain"], words
    assert task_models.segmenters_for("structures", balls()) == []
    talk = Conversation("test")
    talk.open(balls())
    assert "It knows: hippocampus." in said(talk, "measure", structure="knee").text


def test_suggestions_fit_the_scan_and_the_models_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = [(SimpleNamespace(name=n), {"kind": k, "about": {"colour": c}}) for n, k, c in (
        ("cells", "detect", True), ("skin", "classify", True), ("organs", "detect", False),
    )]  # fmt: skip
    monkeypatch.setattr(task_models, "_folders", lambda: trained)
    talk = Conversation("test")
    colours = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    talk.open(Scan.from_array(colours, modality="PHOTO"))
    assert suggestions(talk)[1:3] == ["Classify this picture: skin", "Find all cells"]
    talk.open(Scan.from_array(colours[..., 0], modality="CR", body_part="chest"))
    assert "Find all organs" in suggestions(talk) and "Classify" not in " ".join(suggestions(talk))
    talk.open(balls())
    assert not any("Find all" in text for text in suggestions(talk))


def test_outlines_of_photographs_are_not_asked_of_grey_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = [
        (SimpleNamespace(name=name), {"kind": "segment", "labels": ["vessel"], "about": about})
        for name, about in (("retina", {"colour": True}), ("angiography", {"colour": False}), ("old", {}))
    ]
    monkeypatch.setattr(task_models, "_folders", lambda: trained)
    monkeypatch.setattr(task_models, "_segmenter", lambda folder: folder)
    colours = Scan.from_array(np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8), modality="PHOTO")
    named = [str(folder) for folder, _ in trained]
    assert task_models.segmenters_for("vessels", colours) == [named[0], named[2]]
    assert task_models.segmenters_for("vessels", balls()) == named[1:]


def test_what_a_detector_has_to_say_of_itself_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from medfm import predict
    from medfm.scan import Box

    model = SimpleNamespace(name="planted", caution="Learned from synthetic things.")
    monkeypatch.setattr(task_models, "detectors_for", lambda name, scan: [model])
    monkeypatch.setattr(predict, "detect", lambda found, scan: [Box("ball", (0, 0, 0), (9, 9, 9), 0.8)])
    talk = Conversation("test")
    talk.open(balls())
    turn = said(talk, "detect", structure="ball")
    assert turn.note.startswith("Learned from synthetic things.") and len(turn.evidence) == 1
