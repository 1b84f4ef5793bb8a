"""MedFM end to end at a tiny size: trained by the loop, saved as an adapter, loaded, asked."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import medfm
from medfm.errors import AdapterMismatch, UnknownName
from medfm.language.prompt import pack
from medfm.model import MedFM, load, save_adapter, save_merged
from medfm.predict import ask, ask_many, stream
from medfm.scan import Scan

QUESTIONS = ["Is there a disk?", "On which side is the disk?", "What modality is this?"]


@pytest.fixture(scope="module")
def model(adapter_folder: Path) -> MedFM:
    return load(adapter_folder)


def picture(seed: int = 0) -> Scan:
    return Scan.from_array(np.random.default_rng(seed).integers(0, 255, (96, 80), dtype=np.uint8))


def volume() -> Scan:
    values = np.random.default_rng(0).integers(-1000, 1000, (6, 64, 64)).astype(np.int16)
    return Scan.from_array(values, affine=np.diag([1, 1, 5, 1]), modality="CT", units="HU")


@pytest.mark.parametrize("scan", [picture(), volume()], ids=["picture", "volume"])
def test_cached_equals_not_cached(model: MedFM, scan: Scan) -> None:
    model._readings.clear()
    first = ask(model, scan, QUESTIONS[0])
    again = ask(model, scan, QUESTIONS[0])
    model._readings.clear()
    fresh = ask(model, scan, QUESTIONS[0])
    assert first == again == fresh


def test_nothing_of_transformers_is_used_that_is_going(model: MedFM) -> None:
    model._readings.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)  # a deprecation told by transformers fails the test
        assert len(ask_many(model, picture(3), QUESTIONS)) == len(QUESTIONS)


def test_many_questions_equal_one_at_a_time(model: MedFM) -> None:
    together = ask_many(model, picture(), QUESTIONS)
    apart = [ask(model, picture(), q) for q in QUESTIONS]
    assert [a.text for a in together] == [a.text for a in apart]
    assert [a.confidence for a in together] == pytest.approx([a.confidence for a in apart], rel=1e-3)


def test_stream_pieces_add_up_to_the_answer(model: MedFM) -> None:
    pieces, generator = [], stream(model, picture(), QUESTIONS[0])
    try:
        while True:
            pieces.append(next(generator))
    except StopIteration as end:
        answer = end.value
    assert answer == ask(model, picture(), QUESTIONS[0])
    assert answer.text.startswith("".join(pieces))


def test_cache_goes_by_content_and_not_by_name(model: MedFM, tmp_path: Path) -> None:
    from PIL import Image

    texts = []
    for seed in (1, 2):
        Image.fromarray(picture(seed).data[0, 0]).save(tmp_path / "scan.png")
        model.read(Scan.read(tmp_path / "scan.png"))
        texts.append(next(reversed(model._readings)))
    assert texts[0] != texts[1]


def test_cache_is_bounded(model: MedFM) -> None:
    for seed in range(6):
        model.read(picture(seed))
    assert len(model._readings) == 4


def test_blank_image_changes_what_the_model_takes_in(model: MedFM) -> None:
    seen = model.encode(model.preparation(picture()))
    blank = model.encode(model.preparation(Scan.from_array(np.zeros((96, 80), np.uint8))))
    assert not torch.allclose(seen.logits, blank.logits)


def test_header_facts_are_told_to_the_model(model: MedFM) -> None:
    assert model.preparation(volume()).facts == "CT, transverse plane"
    assert model.preparation(volume(), plane="coronal").facts == "CT, coronal plane"
    assert model.preparation(picture()).facts == ""
    assert model.preparation(replace(volume(), body_part="abdomen")).facts == "CT, transverse plane, abdomen"
    prepared = model.preparation(volume())
    told, silent = (model.encode(replace(prepared, facts=facts)) for facts in (prepared.facts, ""))
    assert told.prefix.get_seq_length() > silent.prefix.get_seq_length()


def test_a_second_look_depends_on_the_question_and_the_scan(model: MedFM) -> None:
    one, other = (model.encode(model.preparation(scan)) for scan in (picture(), volume()))
    said = model.candidates(one.memory, QUESTIONS)
    assert said[0] != said[1]
    assert said[0] != model.candidates(other.memory, QUESTIONS)[0]
    known = set(model.config.vision["answers"])
    for found in said:
        assert {text for text, _ in found} <= known
        assert [p for _, p in found] == sorted((p for _, p in found), reverse=True)


def test_what_the_second_look_proposes_is_told_behind_the_question(model: MedFM) -> None:
    reading = model.encode(model.preparation(picture()))
    assert reading.memory is not None
    shares = model.shares(reading.memory, QUESTIONS[:1])
    plain, told = model.asked(QUESTIONS[:1], None)[0], model.asked(QUESTIONS[:1], shares)[0]
    end = len(model.prompt.question(model.tokenizer, ""))
    assert len(told) > len(plain)
    assert torch.equal(told[: len(plain) - end], plain[:-end]) and torch.equal(told[-end:], plain[-end:])


def test_confidence_is_the_share_of_the_panel_where_it_knows_the_answer(
    model: MedFM, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = picture()
    plain = ask(model, scan, QUESTIONS[0])
    monkeypatch.setattr(model.vision, "answers", [*model.vision.answers[1:], plain.text])
    memory = model.read(scan).memory
    assert memory is not None
    share = float(model.shares(memory, QUESTIONS[:1])[0, -1])
    assert ask(model, scan, QUESTIONS[0]).confidence == pytest.approx(share, rel=1e-4)
    monkeypatch.setattr(model.vision, "answers", ["An answer nobody gave"] * len(model.vision.answers))
    assert ask(model, scan, QUESTIONS[0]).confidence != pytest.approx(share, rel=1e-2)


def test_packed_questions_give_the_loss_of_one_at_a_time(model: MedFM) -> None:
    prepared = model.preparation(picture())
    seen = model.vision(prepared.x[None], prepared.spacing[None])

    def loss(questions: list[str], answers: list[str]) -> float:
        case = (seen.tokens.shape[1], "CT", questions, ["Yes 50%"] * len(questions), answers)
        packed = pack(model.prompt, model.tokenizer, [case])
        with torch.no_grad():
            return float(model.answer_loss(model.embed(packed, seen.tokens), packed)[0])

    answers = ["Yes", "No!", "CT."]  # of one length, so that each weighs the same
    together = loss(QUESTIONS, answers)
    assert together == pytest.approx(
        np.mean([loss([q], [a]) for q, a in zip(QUESTIONS, answers, strict=True)]), rel=1e-4
    )


def test_saved_as_a_hugging_face_model_it_gives_the_same_numbers(model: MedFM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    again = MedFM.from_pretrained(tmp_path).eval()
    again.tokenizer = model.tokenizer
    for one, two in zip(ask_many(again, picture(), QUESTIONS), ask_many(model, picture(), QUESTIONS), strict=True):
        assert one.text == two.text
        assert one.confidence == pytest.approx(two.confidence, rel=1e-3, abs=0)


def test_adapter_opens_in_plain_peft_and_merging_changes_nothing(adapter_folder: Path, tiny_language: Path) -> None:
    ids = torch.arange(20)[None]
    base = AutoModelForCausalLM.from_pretrained(tiny_language).eval()
    plain = base(ids).logits
    adapted = PeftModel.from_pretrained(base, str(adapter_folder)).eval()
    with_adapter = adapted(ids).logits
    merged = adapted.merge_and_unload()(ids).logits
    assert not torch.allclose(plain, with_adapter, atol=1e-5)
    torch.testing.assert_close(merged, with_adapter, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(load(adapter_folder).language(ids).logits, merged, atol=1e-4, rtol=1e-3)


def test_wrong_base_is_an_error_and_not_noise(adapter_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "foreign"
    shutil.copytree(adapter_folder, copy, ignore=shutil.ignore_patterns("checkpoint"))
    about = json.loads((copy / "medfm.json").read_text())
    (copy / "medfm.json").write_text(json.dumps({**about, "base": "0" * 64}))
    with pytest.raises(AdapterMismatch, match="000000"):
        load(copy)


def test_unknown_adapter_names_the_shipped_ones() -> None:
    with pytest.raises(UnknownName, match="shipped are"):
        load("no-such-adapter")


def test_a_model_of_a_task_answers_no_questions() -> None:
    with pytest.raises(UnknownName, match="'cells' is a model of kind 'detect', which answers no questions"):
        load("cells")


def test_save_adapter_round_trip(model: MedFM, tmp_path: Path) -> None:
    save_adapter(model, tmp_path / "copy")
    vision = load(tmp_path / "copy").vision.state_dict()
    for name, tensor in model.vision.state_dict().items():
        torch.testing.assert_close(vision[name].float(), tensor.half().float(), msg=name)


def test_a_colleague_can_read_what_was_saved(model: MedFM, tmp_path: Path) -> None:
    """safetensors writes files that only their owner may read."""
    new = tmp_path / "new"
    new.touch()
    save_adapter(model, tmp_path / "copy")
    save_merged(model, tmp_path / "merged")
    files = [*tmp_path.rglob("*.safetensors")]
    assert len(files) == 3
    assert {file.stat().st_mode for file in files} == {new.stat().st_mode}


def test_evidence_is_a_box_around_what_is_named(model: MedFM, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = picture()
    reading = model.read(scan)
    logits = torch.full_like(reading.logits, -9.0)
    logits[0, 0, 0, 2:4, 4:6] = 9.0  # stride 8 of a 64 px view: rows 16-32, columns 32-48
    object.__setattr__(reading, "logits", logits)
    monkeypatch.setattr(model, "read", lambda *_, **__: reading)
    (box,) = ask(model, scan, "Is there a disk?").evidence
    assert box.label == "Disk" and box.score > 0.99
    left = (64 - round(80 * 64 / 96)) // 2
    assert box.low == pytest.approx(((32 - left) * 1.5, 24)) and box.high == pytest.approx(((48 - left) * 1.5, 48))
    assert ask(model, scan, "What is the modality?").evidence == ()
    film = replace(scan, modality="CR")  # whose organs nobody has drawn for the eye to learn from
    assert ask(model, film, "Is there a disk?").evidence == ()
    assert ask(model, replace(scan, modality="PHOTO"), "Is there a disk?").evidence == ()


def test_low_confidence_abstains_and_says_why(model: MedFM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.config, "abstain", 1.0)
    answer = ask(model, picture(), QUESTIONS[0])
    assert answer.abstained and "below" in answer.reason


def test_public_names() -> None:
    assert medfm.load is load and medfm.ask is ask


def test_what_is_found_in_the_border_around_a_picture_is_no_evidence(
    model: MedFM, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = Scan.from_array(np.random.default_rng(0).integers(0, 255, (30, 96), dtype=np.uint8))
    reading = model.read(scan)
    logits = torch.full_like(reading.logits, -9.0)
    logits[0, 0, 0, 0, :] = 9.0  # the picture fills rows 22 to 42 of 64
    object.__setattr__(reading, "logits", logits)
    monkeypatch.setattr(model, "read", lambda *_, **__: reading)
    assert ask(model, scan, "Is there a disk?").evidence == ()
