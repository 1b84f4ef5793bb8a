"""One tab's answers and its life: stopped at once, failed without remains, back after the page is loaded again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_chat import BRIGHT, ask

import medfm


def slow_answer(chat: Any, pictures: Path) -> tuple[Any, Iterator[Any]]:
    """A session and the answer that has begun in it."""
    session = chat.parts.sessions.get(("browser", "tab"))
    session.talk.open(medfm.Scan.read(pictures / "bright.png"))
    session.talk.turns.append(chat.page.Turn("person", "slow question"))
    replies = chat.page.reply(chat.parts, session, "fake")
    next(replies)
    return session, replies


def test_enter_pressed_twice_asks_once(chat: Any, pictures: Path) -> None:
    session, first = slow_answer(chat, pictures)
    assert list(chat.page.reply(chat.parts, session, "fake")) == []
    assert len(list(first)[-1][0]["turns"]) == 2


def test_stop_ends_an_answer(chat: Any, pictures: Path) -> None:
    session, replies = slow_answer(chat, pictures)
    session.stopped.set()
    now = list(replies)[-1][0]
    assert now["turns"][-1]["state"] == "stopped"


def test_stop_does_not_wait_for_a_network(chat: Any, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from medfm.assistant.tools import TOOLS

    session = chat.parts.sessions.get(("browser", "tab"))
    session.talk.open(medfm.Scan.read(pictures / "bright.png"))
    layers: list[int] = []

    class Layer(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            layers.append(1)
            if len(layers) == 3:
                session.stopped.set()  # what the button does
            return x

    def slow(talk: Any, model: Any, turn: Any, **_: Any) -> Iterator[None]:
        yield
        torch.nn.Sequential(*[Layer() for _ in range(9)])(torch.ones(1))
        turn.text = "nobody wants this any more"

    tool = dataclasses.replace(TOOLS["segment"], run=slow)
    with monkeypatch.context() as patch:
        patch.setitem(TOOLS, "segment", tool)
        turn = ask(chat, session, "segment the liver")
    assert turn["state"] == "stopped" and not turn["text"] and len(layers) == 3
    torch.nn.Sequential(*[Layer() for _ in range(9)])(torch.ones(1))  # outside of an answer nothing is stopped
    assert len(layers) == 12 and ask(chat, session, BRIGHT)["text"] == "Yes"


def test_a_fault_of_the_program_leaves_nothing_running(
    chat: Any, pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from medfm.assistant.tools import TOOLS

    def faulty(*_: Any, **__: Any) -> Iterator[None]:
        yield
        raise ZeroDivisionError

    session = chat.parts.sessions.get(("browser", "tab"))
    session.talk.open(medfm.Scan.read(pictures / "bright.png"))
    monkeypatch.setitem(TOOLS, "segment", dataclasses.replace(TOOLS["segment"], run=faulty))
    assert "fault of the program" in ask(chat, session, "segment the liver")["text"]
    assert [turn.state for turn in session.talk.turns] == ["done", "failed"]
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_closed_page_comes_back_within_its_grace_in_the_same_tab_only(chat: Any, pictures: Path) -> None:
    sessions = chat.parts.sessions
    session = sessions.get(("browser", "page"))
    session.tab = "tab"
    session.talk.open(medfm.Scan.read(pictures / "bright.png"))
    assert sessions.back(("browser", "copy"), "tab") is None, "the page is still open: this is a copy of its tab"
    sessions.leave(("browser", "page"))
    assert sessions.back(("other browser", "page 2"), "tab") is None
    assert sessions.back(("browser", "page 2"), "other tab") is None
    assert sessions.back(("browser", "page 2"), "tab") is session
    sessions.sweep()
    assert sessions.get(("browser", "page 2")) is session and session.talk.current is not None
    sessions.leave(("browser", "page 2"))
    sessions.grace = 0.0
    sessions.sweep()
    assert session.talk.current is None and not session.folder.exists()


def test_what_a_killed_server_left_goes_with_the_next_start_and_a_living_one_keeps_its_own(
    chat: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import signal
    import subprocess
    import sys
    import tempfile

    server = (
        "from chat_sessions import private_folder\nwith private_folder() as folder: print(folder, flush=True); input()"
    )
    monkeypatch.setenv("PYTHONPATH", str(Path(chat.page.__file__).parent), prepend=":")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with (
        subprocess.Popen([sys.executable, "-c", server], **pipes) as killed,
        subprocess.Popen([sys.executable, "-c", server], **pipes) as alive,
    ):
        folders = [Path(process.stdout.readline().strip()) for process in (killed, alive) if process.stdout]
        for folder in folders:
            (folder / "scan.dcm").write_bytes(b"of a patient")
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        with chat.main.private_folder() as own:
            assert [folder.exists() for folder in (*folders, own)] == [False, True, True]
            assert (folders[1] / "scan.dcm").exists()
        assert not own.exists()
        alive.communicate("\n")
        assert not folders[1].exists()
