"""Other people's models behind the same verbs: asked, reported with, measured, fine-tuned; how volumes are shown."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_builders import FAMILIES, foreign_folder

from medfm.cli import main
from medfm.errors import WeightsError
from medfm.evaluate import evaluate_vqa
from medfm.evaluate.report import evaluate_report
from medfm.language.foreign import is_foreign, load_foreign
from medfm.model import load
from medfm.predict import ask, report
from medfm.scan import Scan

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foreign_folder(request.param, tmp_path_factory.mktemp("foreign") / request.param)


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foreign_folder("llava", tmp_path_factory.mktemp("foreign") / "llava")


def volume(depth: int = 5) -> Scan:
    values = np.random.default_rng(0).integers(-900, 900, (depth, 40, 40)).astype(np.int16)
    return Scan.from_array(values, affine=np.diag([2, 2, 5, 1.0]), modality="CT", units="HU")


def test_every_family_answers_about_pictures_and_volumes_and_looks(folder: Path) -> None:
    model: Any = load(folder)
    picture = Scan.from_array(np.random.default_rng(1).integers(0, 255, (60, 80), dtype=np.uint8))
    for scan, count in ((picture, 1), (volume(), 5)):
        answer = ask(model, scan, "Is it noise?")
        assert 0 <= (answer.confidence or 0.0) <= 1 and answer.evidence == ()
        pixels = model.tokens(model.preparation(scan), "Is it noise?")["pixel_values"]
        per = model.tokens(model.preparation(picture), "Is it noise?")["pixel_values"].numel()
        assert pixels.numel() == count * per  # no slice is lost on the way
    blank = Scan.from_array(np.zeros((60, 80), dtype=np.uint8))
    (one,), (other,) = (model.finish(model.read(s), ["Is it noise?"], limit=4) for s in (picture, blank))
    assert one[1] != pytest.approx(other[1], rel=1e-6)


def test_loss_is_on_the_answer_and_the_question_stands_last(folder: Path) -> None:
    model = load_foreign(folder)
    laid = model.labelled(model.preparation(volume()), "Is it noise?", "Surely")
    labels, ids = laid["labels"][0], laid["input_ids"][0]
    assert model.processor.decode(labels[labels >= 0]).strip().startswith("Surely")
    asked = model.processor.decode(ids[labels < 0])
    assert asked.index("SLICE 1 of 5") < asked.index("SLICE 5 of 5") < asked.index("Is it noise?")
    assert "CT" in asked[: asked.index("SLICE 1")] and "5 of 5 slices" in asked
    assert torch.isfinite(model.network(**laid).loss)


def test_a_long_volume_is_shown_as_evenly_spaced_slices_in_three_windows(llava: Path) -> None:
    model = load_foreign(llava)
    scan = volume(40)
    prepared = model.preparation(scan)
    assert prepared.x.shape[1] == 16
    text = model.processor.decode(model.tokens(prepared, "Q")["input_ids"][0])
    assert "SLICE 1 of 40" in text and "SLICE 40 of 40" in text and "16 of 40 slices" in text
    whole, _ = scan.slices()
    assert prepared.x[0, -1].mean() == pytest.approx(float(((whole[0, -1] + 1024.0) / 2048).mean()), abs=0.01)
    assert not torch.equal(prepared.x[0], prepared.x[2])


def test_a_report_is_in_its_own_words_without_evidence(llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_foreign(llava)
    said = "There is an effusion on the left. The liver appears normal. All else is fine."
    asked: list[str] = []
    monkeypatch.setattr(model, "_answer", lambda _, q, limit: (asked.append(q), (said, -0.5))[1])
    made = report(model, volume(), indication="cough", prior="Effusion on the left.")  # type: ignore[arg-type]
    assert "cough" in asked[0] and asked[0].endswith("Write the findings.")
    assert [s.title for s in made.findings] == ["Chest", "Abdomen", "Other"]
    assert all(not s.evidence for s in made.sentences())
    assert [f.fact for s in made.impression.sentences for f in s.findings] == [("effusion", "pleura", "left", True)]
    assert made.comparison is not None and "Seen before" in made.comparison.sentences[0].text


def test_it_is_measured_like_any_other(llava: Path, phantom_rows: Path, tmp_path: Path) -> None:
    model: Any = load_foreign(llava)
    metrics = evaluate_vqa(model, phantom_rows, output=tmp_path / "vqa", resamples=20)
    assert metrics["overall"]["n"] == 24 and metrics["blank_image"]["n"] == 24
    row = json.loads(phantom_rows.read_text().splitlines()[0])
    rows = tmp_path / "rows.jsonl"
    image = str(phantom_rows.parent / row["image"])
    rows.write_text(json.dumps({**row, "image": image, "report": "There is an effusion on the left."}))
    figures = evaluate_report(model, rows, output=tmp_path / "report", resamples=20)
    assert figures["facts_recall"]["value"] == 0.0


def test_it_is_fine_tuned_with_one_command_and_opens_in_plain_peft(
    llava: Path, phantom_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDFM_HOME", str(tmp_path / "home"))
    words = [
        "finetune",
        str(phantom_rows),
        "--name",
        "mine",
        "--adapter",
        str(llava),
        "--passes",
        "1",
        "--hold",
        "0.25",
    ]
    monkeypatch.setattr(sys, "argv", ["medfm", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    made = tmp_path / "home" / "adapters" / "mine"
    assert is_foreign("mine") and json.loads((made / "medfm.json").read_text())["kind"] == "foreign"
    card = (made / "README.md").read_text()
    assert str(llava.parent) not in card and "blank image" in card
    tuned = load_foreign("mine")
    trained = [n for n, p in tuned.network.named_parameters() if "lora_B" in n and p.abs().sum() > 0]
    assert trained and not [n for n in trained if "vision" in n or "projector" in n]
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    assert PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(llava), str(made)).peft_config


def test_what_cannot_be_opened_is_said(tmp_path: Path, llava: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "unheard-of"}')
    with pytest.raises(WeightsError, match="AutoModelForImageTextToText"):
        load_foreign(tmp_path)
    model = load_foreign(llava)
    model.processor.chat_template = None
    with pytest.raises(WeightsError, match="chat template"):
        type(model)(model.network, model.processor, model.config, name="x")
