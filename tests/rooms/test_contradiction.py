"""Answers against what the file itself says."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from medfm.assistant.words import about_answer
from medfm.predict.answering import _answer
from medfm.predict.contradiction import SINGLE_PICTURES, asks_for, claimed, contradiction, known_fact, unsupported
from medfm.scan import Finding, Measurement, Scan
from medfm.scan.report import Side


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


@pytest.mark.parametrize(
    ("question", "fact"),
    [
        ("What modality is used to take this image?", "modality"), ("How is this image taken?", "modality"),
        ("Which part of the body does this image belong to?", "body_part"), ("What body part is shown?", "body_part"),
        ("What is the scanning plane of this image?", "plane"), ("Is this a coronal plane?", None),
        ("Which part of the body does the organ on the left belong to?", None), ("Where is the liver?", None),
        ("Does this image show that part of the body?", None),
    ],
)  # fmt: skip
def test_only_a_question_for_a_fact_of_the_file_asks_for_one(question: str, fact: str | None) -> None:
    assert asks_for(question) == fact


def test_the_file_tells_its_facts_in_the_words_of_an_answer(chest: Scan) -> None:
    facts = [known_fact(chest, fact, plane="axial") for fact in ("modality", "body_part", "plane")]
    assert facts == ["CT", "Chest", "Axial plane"]
    picture = Scan.from_array(np.zeros((40, 40), np.uint8))
    assert [known_fact(picture, fact, plane="axial") for fact in ("modality", "body_part", "plane")] == [None] * 3


def test_a_fact_that_the_file_tells_is_answered_by_the_file_where_the_model_is_wrong(chest: Scan) -> None:
    model, reading = SimpleNamespace(config=SimpleNamespace(abstain=0.0)), SimpleNamespace()
    reading.prepared = SimpleNamespace(plane="axial")
    answer = _answer(model, chest, reading, "What part of the body is shown?", "Abdomen", -0.1)  # type: ignore[arg-type]
    assert (answer.text, answer.confidence, answer.abstained) == ("Chest", None, False)
    assert answer.reason == "the header says chest; the model took the picture for 'Abdomen'"


def test_an_answer_that_is_known_to_be_wrong_is_no_guess_either(chest: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    from medfm.predict import answering

    model, reading = SimpleNamespace(config=SimpleNamespace(abstain=0.0), vision=None), SimpleNamespace(memory=None)
    reading.prepared = SimpleNamespace(plane="axial")
    against = _answer(model, chest, reading, "What is seen?", "Abdomen", -0.1)  # type: ignore[arg-type]
    assert (against.abstained, against.text) == (True, "") and "header says chest" in (against.reason or "")
    assert "guess" not in about_answer(against)
    monkeypatch.setattr(answering, "_brain", lambda *_: True)
    monkeypatch.setattr(answering, "find_lesions", lambda _: [])
    unseen = _answer(model, chest, reading, "Is there a tumour?", "Yes", -0.1)  # type: ignore[arg-type]
    assert (unseen.abstained, unseen.text) == (True, "") and "single pictures" in (unseen.reason or "")
    model.config.abstain = 0.9
    unsure = _answer(model, chest, reading, "How many?", "two", -1.0)  # type: ignore[arg-type]
    assert (unsure.abstained, unsure.text) == (True, "two") and "take 'two' as a guess" in about_answer(unsure)


def test_a_lesion_claimed_of_a_volume_is_a_guess(chest: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the model is sure; of a picture, or that there is none, it may be told."""
    from medfm.predict import answering

    monkeypatch.setattr(answering, "_evidence", lambda *_: ())
    model = SimpleNamespace(config=SimpleNamespace(abstain=0.5), vision=object())
    reading = SimpleNamespace(prepared=SimpleNamespace(plane="axial"), memory=None)
    volume, picture = chest, replace(chest, data=chest.data[:, :1])
    for scan, said, declined in (
        (volume, "Lung cancer", True),
        (volume, "None", False),
        (picture, "Lung cancer", False),
    ):
        answer = _answer(model, scan, reading, "What diseases are shown?", said, -0.1)  # type: ignore[arg-type]
        assert (answer.text, answer.abstained) == (said, declined)
        assert not declined or answer.reason == SINGLE_PICTURES


@pytest.mark.parametrize(
    ("question", "said", "told", "by"),
    [
        ("What modality is this?", "CT", "CT", "the header says CT"),
        ("Which plane is this?", "Transverse plane", "Axial plane", "the slices that were read are axial"),
    ],
)
def test_a_fact_that_the_model_is_not_sure_of_is_answered_by_the_file(
    chest: Scan, question: str, said: str, told: str, by: str
) -> None:
    model, reading = SimpleNamespace(config=SimpleNamespace(abstain=0.9)), SimpleNamespace()
    reading.prepared = SimpleNamespace(plane="axial")
    answer = _answer(model, chest, reading, question, said, -0.4)  # type: ignore[arg-type]
    assert (answer.text, answer.abstained, answer.reason) == (told, False, f"{by}; the model was not sure of {said!r}")


@pytest.mark.parametrize(
    ("question", "answer", "says"),
    [
        ("Is there a tumour?", "Yes", True), ("Is there a tumor in the left lobe?", "No", False),
        ("Is the brain healthy?", "Yes", False), ("Is the brain normal?", "No", True),
        ("Is it free of lesions?", "Yes", False), ("What diseases are shown?", "Brain Edema, Brain Tumor", True),
        ("What diseases are shown?", "None", False), ("Is the liver in view?", "Yes", None),
        ("Which organ is this?", "Brain", None), ("Is the brain abnormal?", "Yes", True),
    ],
)  # fmt: skip
def test_an_answer_claims_a_lesion_its_absence_or_neither(question: str, answer: str, says: bool | None) -> None:
    assert claimed(question, answer) is says


def lesion(score: float, side: Side | None = None) -> Finding:
    return Finding("brain lesion", "brain", side, confidence=score, evidence=(Measurement("volume", 4.1, "ml"),))


def test_a_claim_that_the_map_of_lesions_denies_is_not_supported() -> None:
    question, left, none = "Is there a tumour?", [lesion(0.9, "left")], [lesion(0.05)]
    assert unsupported(True, question, left) is None and unsupported(False, question, none) is None
    assert unsupported(False, question, left) == "the map of lesions shows one of 4.1 ml on the left (score 0.90)"
    assert unsupported(True, question, none) == "the map of lesions shows none (highest score 0.05)"
    assert unsupported(True, "A tumour on the right?", left) == "the map of lesions shows one on the left only"
    assert unsupported(True, "A tumour on the left?", left) is None
    for present in (True, False):
        assert "not sure" in (unsupported(present, question, [lesion(0.4)]) or "")
        assert "single pictures" in (unsupported(present, question, []) or "")
