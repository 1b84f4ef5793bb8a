"""Every shipped adapter: complete, small, documented, opens in plain peft, and looks at the image."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from medfm import assets
from medfm.evaluate.vqa import blank_like
from medfm.model import load
from medfm.predict import ask_many
from medfm.scan import Scan

FOLDERS = sorted(f.parent for f in (assets.root() / "adapters").glob("*/medfm.json"))
KINDS = {f: json.loads((f / "medfm.json").read_text()).get("kind", "answers") for f in FOLDERS}
ANSWERING = [f for f in FOLDERS if KINDS[f] == "answers"]
DEMO = assets.root() / "apps" / "chat" / "demo"
QUESTIONS = ["What modality is used to take this image?", "Does the picture contain liver?", "Is the brain healthy?"]


def test_a_default_ships() -> None:
    assert "default" in [f.name for f in FOLDERS]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_an_adapter_stays_small(folder: Path) -> None:
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    networks = len(list(folder.rglob("medfm.json")))
    assert size < (40 * 2**20 if KINDS[folder] == "answers" else 12e6 if networks == 1 else 20e6)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_card_names_data_licence_command_figures_and_limits(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    for word in ("license:", "## Data", "medfm train", "medfm evaluate", "## Limits", "not for diagnosis"):
        assert word in card, f"{folder.name}: the card lacks {word!r}"
    overall = json.loads((folder / "metrics.json").read_text())["overall"]
    assert {"value", "low", "high", "n"} <= set(overall)
    assert any(figure in card for figure in (f"{overall['value']:.3f}", f"{100 * overall['value']:.1f}"))


def test_models_lists_each_with_its_figure() -> None:
    from medfm.cli.inventory import shipped_adapters

    cards = {card.name: card for card in shipped_adapters()}
    assert set(cards) == {folder.name for folder in FOLDERS}
    assert all(card.use and any(c.isdigit() for c in card.figure) for card in cards.values())


@pytest.mark.parametrize("folder", ANSWERING, ids=lambda f: f.name)
def test_figures_of_answers_stand_beside_their_baselines(folder: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    for key in ("overall", "closed", "open", "token_f1", "blank_image", "most_frequent"):
        assert {"value", "low", "high", "n"} <= set(metrics[key])
    assert "blank image" in (folder / "README.md").read_text()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_files_are_tensors_and_json_only(folder: Path) -> None:
    assert {p.suffix for p in folder.rglob("*") if p.is_file()} <= {".safetensors", ".json", ".md"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_no_path_of_the_machine_it_was_trained_on(folder: Path) -> None:
    for file in folder.glob("*.json"):
        assert not re.search(r'"[^"]*(/root/|/home/|/work/|/tmp/|[A-Z]:\\)', file.read_text()), file.name


@pytest.mark.weights
@pytest.mark.parametrize("folder", ANSWERING, ids=lambda f: f.name)
def test_it_reads_the_demo_scan_and_notices_a_blank_one(folder: Path) -> None:
    model = load(folder)
    scan = Scan.read(DEMO / "abdomen_mr.dcm")
    answers = ask_many(model, scan, QUESTIONS)
    assert answers[0].text == "MRI"
    blank = ask_many(model, blank_like(scan), QUESTIONS)
    assert [a.confidence for a in answers] != pytest.approx([b.confidence for b in blank], rel=1e-3)
    noise = Scan.from_array(np.random.default_rng(0).integers(0, 255, (200, 300), dtype=np.uint8))
    assert all(a.text for a in ask_many(model, noise, QUESTIONS))
