"""Adapters of one's own: found by name, small beside their parent, several on one base, never on the wrong one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from medfm import assets
from medfm.config import build
from medfm.errors import AdapterMismatch, UnknownName
from medfm.model import MedFM, load, save_adapter
from medfm.predict import ask_many
from medfm.scan import Scan

QUESTIONS = ["Is there a disk?", "On which side is the disk?"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapter_folder: Path) -> Path:
    """A user's data folder with an adapter "first" and its child "second", whose connector and LoRA differ."""
    monkeypatch.setenv("MEDFM_HOME", str(tmp_path))
    first = tmp_path / "adapters" / "first"
    shutil.copytree(adapter_folder, first, ignore=shutil.ignore_patterns("checkpoint"))
    model = load("first")
    with torch.no_grad():
        model.vision.connector.gain.mul_(-1.5)
    second = tmp_path / "adapters" / "second"
    save_adapter(model, second, parent=first)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(first / name, second / name)
    lora = load_file(second / "adapter_model.safetensors")
    save_file({n: t * 30 + 1 if "lora_B" in n else t for n, t in lora.items()}, second / "adapter_model.safetensors")
    return tmp_path


def scan() -> Scan:
    return Scan.from_array(np.random.default_rng(0).integers(0, 255, (96, 80), dtype=np.uint8))


def said(model: MedFM) -> list[tuple[str, float]]:
    return [(a.text, round(a.confidence, 8)) for a in ask_many(model, scan(), QUESTIONS)]


def test_an_own_adapter_is_found_by_name(home: Path) -> None:
    assert assets.adapter_folder("second") == home / "adapters" / "second"
    with pytest.raises(UnknownName, match="your own: first, second"):
        load("third")


def test_a_child_stores_only_what_differs_and_reads_like_a_whole(home: Path) -> None:
    first, second = home / "adapters" / "first", home / "adapters" / "second"
    assert set(load_file(second / "vision.safetensors")) == {"connector.gain"}
    known, own = assets.eye_tensors(first), assets.eye_tensors(second)
    assert {n for n in own if not torch.equal(own[n], known[n])} == {"connector.gain"}
    assert load("second").vision.connector.gain.equal(own["connector.gain"].float())


def test_a_parent_in_a_folder_somewhere_is_copied_whole(adapter_folder: Path, tmp_path: Path) -> None:
    save_adapter(load(adapter_folder), tmp_path / "child", parent=adapter_folder)
    assert len(load_file(tmp_path / "child" / "vision.safetensors")) == len(assets.eye_tensors(adapter_folder))


def test_a_child_of_another_parent_is_an_error(home: Path) -> None:
    file = home / "adapters" / "first" / "vision.safetensors"
    save_file({n: t + 1 if "gain" in n else t for n, t in load_file(file).items()}, file)
    with pytest.raises(AdapterMismatch, match="fine-tune again"):
        load("second")
    shutil.rmtree(home / "adapters" / "first")
    with pytest.raises(AdapterMismatch, match="put that adapter back"):
        load("second")


def test_several_adapters_share_one_base_and_do_not_mix(home: Path) -> None:
    alone = {name: load(name) for name in ("first", "second")}
    together = True
    shared = {name: load(name, share=together) for name in ("first", "second")}
    first, second = shared["first"].language, shared["second"].language
    assert first.peft is second.peft
    assert first.get_input_embeddings() is second.get_input_embeddings()
    ids = torch.arange(20)[None]
    for name in ("first", "second", "first"):  # back and forth
        torch.testing.assert_close(
            shared[name].language(ids).logits, alone[name].language(ids).logits, atol=1e-3, rtol=1e-3
        )
        for (text, sure), (expected, confidence) in zip(said(shared[name]), said(alone[name]), strict=True):
            assert text == expected and sure == pytest.approx(confidence, rel=1e-2, abs=1e-8)
    assert not torch.allclose(alone["first"].language(ids).logits, alone["second"].language(ids).logits, atol=1e-2)


def test_training_does_not_go_on_from_an_adapter_of_another_base(
    home: Path, phantom_rows: Path, tiny_language: Path
) -> None:
    file = home / "adapters" / "first" / "medfm.json"
    about = json.loads(file.read_text())
    file.write_text(json.dumps({**about, "base": "0" * 64}))
    model = {"adapter": "first", "language": str(tiny_language), "encoder": about["vision"]["encoder"], "lora": {}}
    node = {"name": "instruct", "model": model}
    with pytest.raises(AdapterMismatch, match="000000"):
        build("objectives", node, data={"train": [str(phantom_rows)], "hold": 0.25}, seed=0)
