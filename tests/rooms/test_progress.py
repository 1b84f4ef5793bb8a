"""Long work says how far it has come, to whoever listens and to nobody else."""

from __future__ import annotations

import io
import threading

import numpy as np
import pytest
import torch
from rich.console import Console

import medfm
from medfm.assistant.stopping import Stopped, stopped_by
from medfm.cli import show
from medfm.nn.atlas import Atlas
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


def test_a_brain_can_be_stopped_while_its_atlas_is_fitted() -> None:
    """No layer runs there, and it is most of the 20 seconds that an outline of a head takes."""
    ended, rounds = threading.Event(), 0
    generator = torch.Generator().manual_seed(0)
    chances = 255 * torch.rand(3, 12, 12, 12, generator=generator).softmax(0)
    atlas = Atlas(chances, torch.zeros(2, 3), torch.tensor([0, 1]), spacing=10.0)

    def count(done: int, total: int) -> None:
        nonlocal rounds
        rounds += 1

    image, poses = torch.rand(10, 10, 10, generator=generator), [torch.cat([torch.eye(3), torch.zeros(1, 3)])]
    with heard_by(count):
        atlas.fit(image, [10.0] * 3, poses)
    assert rounds == 24 + 48 + 40
    ended.set()
    with pytest.raises(Stopped), stopped_by(ended):
        atlas.fit(image, [10.0] * 3, poses)
