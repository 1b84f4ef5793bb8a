"""A fake model that speaks the verbs, and small real pictures: the surfaces are tested without weights."""

from __future__ import annotations

import os
import runpy
import shutil
import socket
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import medfm
from medfm.assets import root

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
WEBGL = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]

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
        self.vision = types.SimpleNamespace(structures=types.SimpleNamespace(labels=["Liver", "Heart"]))
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
    if "liver" in question.lower():
        return Answer("On the right", confidence=0.83, evidence=(_middle_box(scan),))
    return Answer(ANSWERS.get(question, "I do not know that one"), confidence=0.95)


def _middle_box(scan: Any) -> Any:
    """A box off the middle of any scan, in its own space, clearest in a slice that is not the middle one."""
    from medfm.scan import Box

    depth, height, width = scan.data.shape[1:]
    if scan.frame == "image":
        return Box("Liver", (width * 0.1, height * 0.2), (width * 0.5, height * 0.6), score=0.83, slice=0)
    corners = np.array([scan.affine[:3] @ (width * f, height * f, depth * f, 1) for f in (0.1, 0.4)])
    low, high = (tuple(corner.tolist()) for corner in (corners.min(0), corners.max(0)))
    return Box("Liver", low, high, score=0.83, slice=int(depth * 0.25))


def _stream(model: FakeModel, scan: Any, question: str, *, plane: str | None = None) -> Iterator[str]:
    answer = _answer(model, scan, question)
    words = answer.text.split(" ")
    for i, word in enumerate(words):
        time.sleep((2 if "very slow" in question else 0.1) if "slow" in question else 0)
        yield word if i == 0 else f" {word}"
    return answer  # the contract of the verb: pieces are yielded, the answer is returned


def _ask_many(model: FakeModel, scan: Any, questions: Sequence[str], *, plane: str | None = None) -> list[Any]:
    return [_answer(model, scan, question) for question in questions]


def _report(model: FakeModel, scan: Any, **context: Any) -> Any:
    """The small report, with the box of this scan behind its finding."""
    from dataclasses import replace

    from report_builders import small_report

    report = small_report()
    said = replace(report.impression.sentences[0], evidence=(_middle_box(scan),))
    for section in (1, 3):
        report = report.changed(section, 0, said)
    given = {name: text for name, text in context.items() if isinstance(text, str)}
    return replace(report, context=given, scan=scan.content_hash)


def _outline(model: FakeModel, scan: Any, structures: list[str], *, plane: str | None = None) -> Any:
    from medfm.scan import Mask

    depth, height, width = scan.data.shape[1:]
    labels = np.zeros((depth, height, width), np.uint8)
    labels[depth // 4 : depth // 2 + 1, height // 4 : height // 2, width // 4 : width // 2] = 1
    return Mask(labels, scan.affine, dict(enumerate(structures, 1)))


@pytest.fixture
def fake_verbs(monkeypatch: pytest.MonkeyPatch) -> FakeModel:
    """Put the fake model behind `medfm.load` and the verbs of `medfm.predict`; no model of a task is there."""
    from medfm.assistant import task_models
    from medfm.predict.airspace import lungs
    from medfm.predict.marking import enclose, grow  # no model in them: the real ones
    from medfm.predict.prompting import outline_marked

    model = FakeModel()
    monkeypatch.setattr(task_models, "prompter", lambda: None)
    monkeypatch.setattr(task_models, "segmenters_for", lambda structure, scan: [])

    def load(name_or_path: str = "default") -> FakeModel:
        model.name = name_or_path
        return model

    for name, members in {
        "model": {"load": load},
        "predict": {
            "ask": _answer, "ask_many": _ask_many, "stream": _stream, "report": _report, "enclose": enclose,
            "grow": grow, "lungs": lungs, "outline_marked": outline_marked,
        },
        "predict.outlining": {"outline": _outline},
    }.items():  # fmt: skip
        room = types.ModuleType(f"medfm.{name}")
        if name == "predict":
            room.__path__ = [
                str(Path(medfm.__file__).parent / name)
            ]  # its modules, imported one by one, are the real ones
        vars(room).update(members)
        monkeypatch.setitem(sys.modules, f"medfm.{name}", room)
        if "." not in name:
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


@pytest.fixture
def at_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No socket of this process may connect to another machine, from start to end, or the test fails."""
    reached: list[str] = []
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            reached.append(str(address))
            raise OSError(f"the server tried to reach {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    yield
    assert not reached, "the server asked another host"


@pytest.fixture
def chat(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fake_verbs: FakeModel, at_home: None
) -> Iterator[Any]:  # fmt: skip
    """The chat page, served on a free port: address, folder, its parts and its modules.

    It is a folder of scripts, which Python runs with that folder on the path; the same is done here.
    """
    folder = tmp_path / "served"
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder / "uploads"))
    scripts = root() / "apps" / "chat"
    monkeypatch.syspath_prepend(str(scripts))
    main = runpy.run_path(str(scripts / "__main__.py"), run_name="chat_main")
    page, models = sys.modules["chat_page"], sys.modules["chat_models"]
    sessions = main["Sessions"](folder / "sessions", audit=main["Audit"](folder / "audit.jsonl"))
    parts = main["Parts"](sessions, main["Models"](medfm.model.load), "fake", ["fake"])
    blocks = main["build"](parts)
    _, address, _ = blocks.launch(
        server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, app_kwargs=main["app_arguments"](sessions),
        **main["SWITCHES"],
    )  # fmt: skip
    yield types.SimpleNamespace(
        address=address, folder=folder, parts=parts, page=page, models=models, main=types.SimpleNamespace(**main)
    )
    blocks.close()
    for name in [name for name in sys.modules if name.startswith("chat_")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    with pytest.importorskip("playwright.sync_api").sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *WEBGL])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any, chat: Any) -> Iterator[Callable[..., Any]]:
    """Open the page in a browser of one's own (cookies and all); no request may go anywhere else."""
    contexts, outside = [], []

    def open_page(**more: Any) -> Any:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 800}, **more})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)
        home = (chat.address, "data:", "blob:")
        page.on("request", lambda r: None if r.url.startswith(home) else outside.append(r.url))
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(chat.address)
        page.get_by_text("No scan is open").wait_for()
        page.get_by_text("is ready").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not outside, "the page asked another host"


@pytest.fixture
def shot(tmp_path: Path) -> Callable[[Any, str], None]:
    folder = Path(os.environ.get("MEDFM_SCREENSHOTS", tmp_path / "screenshots"))
    folder.mkdir(parents=True, exist_ok=True)

    def take(page: Any, name: str) -> None:
        page.wait_for_timeout(700)
        page.screenshot(path=str(folder / f"{name}.png"))

    return take


@pytest.fixture
def ct(tmp_path: Path) -> Path:
    """A body of soft tissue with lungs and a spine, 40 slices, as NIfTI."""
    z, y, x = np.mgrid[:40, :96, :96]
    data = np.full(z.shape, -1000, np.int16)
    data[((x - 48) / 44) ** 2 + ((y - 48) / 34) ** 2 < 1] = 40
    for side in (28, 68):
        data[((x - side) / 14) ** 2 + ((y - 50) / 20) ** 2 + ((z - 24) / 16) ** 2 < 1] = -800
    data[(x - 48) ** 2 + (y - 22) ** 2 < 36] = 700
    medfm.Scan.from_array(data, affine=np.diag([4.0, 4.0, 6.0, 1.0]), modality="CT", units="HU").write(
        tmp_path / "ct.nii.gz"
    )
    return tmp_path / "ct.nii.gz"
