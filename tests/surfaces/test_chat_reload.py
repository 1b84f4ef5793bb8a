"""A page that is loaded again, in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_chat_browser import ask, upload, wait_for_volume

pytestmark = pytest.mark.timeout(900)  # software WebGL on a busy machine


def test_a_page_that_is_loaded_again_has_everything(visit: Any, shot: Any, ct: Path) -> None:
    page = visit()
    upload(page, ct)
    wait_for_volume(page)
    ask(page, "where is the liver?")
    page.get_by_placeholder("Ask about this scan").fill("a very slow question")
    page.keyboard.press("Enter")
    page.locator(".mf-answer.mf-running").wait_for()
    page.reload()  # while an answer is made
    wait_for_volume(page)
    page.locator(".mf-answer").nth(1).wait_for()
    page.wait_for_function("document.querySelectorAll('.mf-answer.mf-done').length === 2")
    assert page.locator(".mf-turn").count() == 4
    assert "confidence moderate (0.83)" in page.locator(".mf-answer").first.inner_text()
    shot(page, "23-loaded-again")
    assert "Not answered" in ask(page, "is there a nodule?").inner_text()
    page.locator(".mf-answer").first.locator(".mf-chip").click()
    other = page.context.new_page()  # a tab of its own has nothing open
    other.goto(page.url)
    other.get_by_text("No scan is open").wait_for()
    other.wait_for_timeout(1000)
    assert other.locator(".mf-turn").count() == 0
    other.close()
    assert page.errors == []
