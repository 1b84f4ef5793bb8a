"""The surfaces on a real, tiny, barely trained model: the verbs they call are the verbs that exist."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from medfm.cli import main


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["medfm", *words])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_ask(
    adapter_folder: Path, phantom_rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = phantom_rows.parent / "images" / "case0" / "image.png"
    code = run(monkeypatch, "ask", str(picture), "Is there a disk?", "--adapter", str(adapter_folder), "--json")
    answer = json.loads(capsys.readouterr().out)
    assert code == 0
    assert 0 <= answer["confidence"] <= 1
    assert answer["scan"]["shape"] == [1, 1, 96, 80]


def test_evaluate(adapter_folder: Path, phantom_rows: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = ("evaluate", "vqa", str(phantom_rows), "--adapter", str(adapter_folder), "--output", str(tmp_path))
    assert run(monkeypatch, *words) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["overall"]["n"] == 24
    assert metrics["model"]["name"] == adapter_folder.name
    assert str(adapter_folder) not in (tmp_path / "metrics.json").read_text()
    first = (tmp_path / "predictions.jsonl").read_text()
    assert run(monkeypatch, *words) == 0  # nothing is left to ask: the same file again
    assert (tmp_path / "predictions.jsonl").read_text() == first
