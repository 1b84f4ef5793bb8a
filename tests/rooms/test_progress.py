"""Long work says how far it has come, to whoever listens and to nobody else."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from rich.console import Console

import medfm
from medfm.cli import show
from medfm.nn.tiles import label_tiles
from medfm.progress import counting, heard_by
from medfm.scan import Scan
from medfm.segmenter import Segmenter


@pytest.mark.parametrize("budget", [1 << 30, 1])  # whole slabs; strips of rows, on whose borders tiles are done twice
def test_every_tile_is_counted(budget: int) -> None:
    heard: list[tuple[int, int]] = []
    tiles = 0

    def predict(part: tuple[slice, slice, slice]) -> torch.Tensor:
        nonlocal tiles
        tiles += 1
        return torch.zeros(2, *(cut.stop - cut.start for cut in part))

    with heard_by(lambda done, total: heard.append((done, total))):
        label_tiles(predict, (12, 40, 20), patch=(8, 16, 16), classes=2, budget=budget)
    assert heard == [(n + 1, tiles) for n in range(tiles)] and tiles >= 16


def test_what_runs_afterwards_is_not_heard() -> None:
    heard: list[int] = []
    with heard_by(lambda done, total: heard.append(done)):
        counting(3)()
    counting(3)()
    assert heard == [1]


def test_a_terminal_shows_a_bar_and_a_log_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"encoder": {"name": "conv", "ndim": 3, "channels": [4, 8]}, "head": {}, "labels": ["a"]}
    model = Segmenter(**settings, prepare={"intensity": "zscore"}, patch=[16, 16, 16]).eval()
    scan = Scan.from_array(np.random.default_rng(0).normal(size=(24, 24, 24)).astype(np.float32))
    for terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=80)
        monkeypatch.setattr(show, "_err", lambda console=console: console)
        with show.waiting("segmenting"):
            medfm.segment(model, scan)
        assert ("━" in console.file.getvalue()) is terminal  # type: ignore[attr-defined]
