"""A page that is loaded again, in a real browser."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
from scan_builders import phantom, ras_affine, series
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


def test_the_list_of_series_comes_back(visit: Any, shot: Any, tmp_path: Path) -> None:
    for number, text in enumerate(("first", "second")):
        series(tmp_path / str(number), phantom(), ras_affine(), uid=f"1.2.{number}", SeriesDescription=text)
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for file in sorted(tmp_path.glob("[01]/*")):
            archive.write(file, f"{file.parent.name}/{file.name}")
    page = visit()
    upload(page, tmp_path / "study.zip")
    chooser = page.get_by_label("Several series are here")
    chooser.wait_for()
    page.reload()  # before one is chosen
    chooser.wait_for()
    assert "choose one above" in page.locator(".mf-error").inner_text()
    chooser.click()
    page.get_by_role("option").nth(1).click()
    wait_for_volume(page)
    page.reload()
    wait_for_volume(page)
    chooser.wait_for()
    assert chooser.input_value().startswith("1: ")
    shot(page, "24-series-again")
    chooser.click()
    page.get_by_role("option").nth(0).click()
    page.wait_for_function("document.querySelectorAll('.mf-answer').length === 0")
    assert page.errors == []
