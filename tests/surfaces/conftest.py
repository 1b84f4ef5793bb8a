"""A fake model that speaks the verbs, and small real pictures: the surfaces are tested without weights."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import medfm

ANSWERS = {
    "what modality is this?": "MRI",
    "is the picture bright?": None,  # looked up in the pixels: the only question a blank image changes
    "is there a nodule?": "No",
}


class FakeModel:
    """Answers by rule, and counts how often a scan was encoded and a question asked."""

    def __init__(self, name: str = "fake") -> None:
        import torch

        self.name = name
        self.config = types.SimpleNamespace(to_dict=lambda: {"name": name})
        self.weights = {"weight": torch.ones(2)}
        self.encoded: list[str] = []
        self.asked: list[str] = []

    def state_dict(self) -> dict[str, Any]:
        return self.weights


def _answer(model: FakeModel, scan: Any, question: str, *, plane: str | None = None) -> Any:
    from medfm.scan import Answer, Box

    if not model.encoded or model.encoded[-1] != scan.content_hash:
        model.encoded.append(scan.content_hash)
    model.asked.append(question)
    if question == "is there a nodule?":
        return Answer(ANSWERS[question] or "", confidence=0.3, abstained=True, reason="confidence 0.30 is below 0.50")
    if question == "is the picture bright?":
        bright = float(scan.data.mean()) > 60
        evidence = (Box("bright", (1.0, 2.0), (5.0, 6.0), score=0.8, slice=0),) if bright else ()
        return Answer("Yes" if bright else "No", confidence=0.8, evidence=evidence)
    return Answer(ANSWERS.get(question, "I do not know that one"), confidence=0.95)


def _stream(model: FakeModel, scan: Any, question: str, *, plane: str | None = None) -> Iterator[str]:
    answer = _answer(model, scan, question)
    words = answer.text.split(" ")
    for i, word in enumerate(words):
        yield word if i == 0 else f" {word}"
    return answer  # the contract of the verb: pieces are yielded, the answer is returned


def _ask_many(model: FakeModel, scan: Any, questions: Sequence[str], *, plane: str | None = None) -> list[Any]:
    return [_answer(model, scan, question) for question in questions]


@pytest.fixture
def fake_verbs(monkeypatch: pytest.MonkeyPatch) -> FakeModel:
    """Put the fake model behind `medfm.load` and the verbs of `medfm.predict`."""
    model = FakeModel()

    def load(name_or_path: str = "default") -> FakeModel:
        model.name = name_or_path
        return model

    for name, members in {
        "model": {"load": load},
        "predict": {"ask": _answer, "ask_many": _ask_many, "stream": _stream},
    }.items():
        room = types.ModuleType(f"medfm.{name}")
        vars(room).update(members)
        monkeypatch.setitem(sys.modules, f"medfm.{name}", room)
        monkeypatch.setattr(medfm, name, room, raising=False)
    return model


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with bright.png and dark.png (grey, 24 x 32), broken.png (not a picture)."""
    from PIL import Image

    texture = np.random.default_rng(0).integers(0, 40, (24, 32), dtype=np.uint8)
    for name, level in (("bright", 160), ("dark", 5)):
        Image.fromarray(texture + np.uint8(level)).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    return tmp_path
