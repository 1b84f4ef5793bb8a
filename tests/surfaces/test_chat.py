"""The chat page through its own interface and, marked slow, through a real browser; a fake model behind it."""

from __future__ import annotations

import importlib.util
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from medfm.assets import root

PAGE = root() / "apps" / "chat" / "app.py"
BRIGHT = "is the picture bright?"


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fake_verbs: Any) -> Iterator[ModuleType]:
    """The page as a module; it is a script, so it is loaded by its path."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    spec = importlib.util.spec_from_file_location("chat_page", PAGE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "chat_page", module)
    spec.loader.exec_module(module)
    yield module


@pytest.fixture
def loading(fake_verbs: Any) -> Future[Any]:
    """A model that has been loaded."""
    future: Future[Any] = Future()
    future.set_result(fake_verbs)
    return future


@pytest.fixture
def address(app: ModuleType, loading: Future[Any]) -> Iterator[str]:
    """The page, served on a free port."""
    page = app.build(loading)
    _, local, _ = page.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **app.SWITCHES)
    yield local
    page.close()


def said(history: list[dict[str, Any]]) -> str:
    content = history[-1]["content"]
    return content if isinstance(content, str) else " ".join(part["text"] for part in content)


def ask(client: Any, question: str) -> str:
    message = {"role": "user", "content": [{"type": "text", "text": question}]}
    return said(client.predict([message], api_name="/reply"))


def test_a_scan_is_read_and_asked_about(address: str, pictures: Path, tmp_path: Path) -> None:
    from gradio_client import Client, handle_file

    client = Client(address, verbose=False, download_files=False)
    assert "Open a scan first" in ask(client, BRIGHT)
    facts = client.predict([handle_file(pictures / "bright.png")], api_name="/open")[1]
    assert "32 x 24" in facts
    reply = ask(client, BRIGHT)
    assert reply.startswith("Yes\nconfidence moderate (0.80)")
    assert "evidence: bright" in reply
    assert ask(client, "is there a nodule?").startswith("not answered")
    assert not list((tmp_path / "gradio").rglob("bright.png")), "an upload stays on the disk after it was read"


def test_two_tabs_do_not_share_a_scan(address: str, pictures: Path) -> None:
    from gradio_client import Client, handle_file

    one, two = (Client(address, verbose=False, download_files=False) for _ in range(2))
    one.predict([handle_file(pictures / "bright.png")], api_name="/open")
    assert "Open a scan first" in ask(two, BRIGHT)
    two.predict([handle_file(pictures / "dark.png")], api_name="/open")
    assert ask(one, BRIGHT).startswith("Yes")
    assert ask(two, BRIGHT).startswith("No")


def test_a_file_that_is_no_scan_is_refused_in_words(address: str, pictures: Path, tmp_path: Path) -> None:
    from gradio_client import Client, handle_file

    client = Client(address, verbose=False, download_files=False)
    facts = client.predict([handle_file(pictures / "broken.png")], api_name="/open")[1]
    assert "broken.png" in facts
    assert str(tmp_path) not in facts


def test_a_question_waits_for_the_model_and_a_failed_load_is_said(app: ModuleType, pictures: Path) -> None:
    import medfm
    from medfm.errors import WeightsError

    session = app.Session(scan=medfm.Scan.read(pictures / "dark.png"))
    late: Future[Any] = Future()
    replies = app.answer(late, session, BRIGHT)
    assert "loading" in next(replies)
    late.set_exception(WeightsError("no weights; three ways to get them"))
    assert "three ways" in list(replies)[-1]


def test_series_are_offered_and_the_upload_kept_until_one_is_chosen(
    app: ModuleType, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import medfm
    from medfm.errors import SeriesChoice

    scan = medfm.Scan.read(pictures / "dark.png")

    def read(path: str, *, series: int | None = None) -> medfm.Scan:
        if series is None:
            raise SeriesChoice("two", ["MR t1", "MR t2"])
        assert series == 1
        return scan

    monkeypatch.setattr(medfm.Scan, "read", read)
    upload = pictures / "study.zip"
    upload.write_bytes(b"")
    session = app.Session()
    _, choice, *_ = app.open_files([str(upload)], session)
    assert choice["choices"] == ["0: MR t1", "1: MR t2"]
    assert upload.exists()
    app.open_series("1: MR t2", session)
    assert session.scan is scan
    assert not upload.exists()


def test_nothing_is_looked_up_outside(app: ModuleType, loading: Future[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = socket.getaddrinfo

    def lookup(host: Any, *rest: Any, **more: Any) -> Any:
        asked.append(str(host))
        return real(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    page = app.build(loading)
    page.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **app.SWITCHES)
    page.close()
    assert set(asked) <= {"127.0.0.1", "localhost", "::1", "None"}
    assert page.analytics_enabled is False
    assert page.run_history is False
    assert page.share is False


@pytest.mark.slow
def test_in_a_browser(address: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    import shutil

    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        pytest.skip("no chromium is installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        outside: list[str] = []
        page.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else outside.append(r.url))
        page.goto(address)
        page.get_by_role("button", name="Try: brain MR, a volume").click()
        page.get_by_text("98 x 116 x 94").or_(page.locator("textarea[disabled]").first).first.wait_for()
        page.get_by_label("range slider for Slice").or_(page.locator("input[type=range]")).first.wait_for(
            timeout=20_000
        )
        box = page.get_by_placeholder("Ask about this scan")
        hostile = "<img src=x onerror=\"document.title='stolen'\"> **bold** what is this?"
        for text in (hostile, "what modality is this?", "is there a nodule?"):
            box.fill(text)
            box.press("Enter")
            page.get_by_text("confidence").last.wait_for(timeout=20_000)
            page.wait_for_timeout(1500)
        assert page.title() == "medfm"
        assert page.locator(".message img").count() == 0
        assert page.get_by_text("**bold**").count() >= 1
        assert not outside
        page.get_by_label("number input for Slice").fill("60")
        page.wait_for_timeout(1500)
        page.screenshot(path=str(tmp_path / "chat.png"))
        print(tmp_path / "chat.png")
        browser.close()
