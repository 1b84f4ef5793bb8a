"""The chat page in a real browser, with a fake model: what a person does, what an attacker tries, what it looks like.

Screenshots go to $MEDFM_SCREENSHOTS, else into the test's own folder. Skipped where there is no Chromium or playwright.
"""

from __future__ import annotations

import base64
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import medfm

HOSTILE = "<img src=x onerror=\"document.title='stolen'\"><script>document.title='stolen'</script> **bold** ${1+1}"

pytestmark = pytest.mark.timeout(900)  # software WebGL on a busy machine


def upload(page: Any, *files: Path) -> None:
    page.locator("#mf-upload input[type=file]").set_input_files([str(file) for file in files])


def drop(page: Any, file: Path) -> None:
    """Drop a file on the viewer, as a person's mouse would."""
    content = base64.b64encode(file.read_bytes()).decode()
    page.evaluate(
        "([name, content]) => { const data = new DataTransfer();"
        " data.items.add(new File([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))], name));"
        " const more = { dataTransfer: data, bubbles: true, cancelable: true };"
        " document.querySelector('.mf-stage').dispatchEvent(new DragEvent('drop', more)); }",
        [file.name, content],
    )


def ask(page: Any, question: str) -> Any:
    """Ask and wait for the answer; returns its element."""
    answers = page.locator(".mf-answer")
    before = answers.count()
    page.get_by_placeholder("Ask about this scan").fill(question)
    page.keyboard.press("Enter")
    page.wait_for_function(
        "(n) => { const a = document.querySelectorAll('.mf-answer');"
        " return a.length > n && !a[a.length - 1].matches('.mf-waiting, .mf-running'); }",
        arg=before,
    )
    return answers.last


def place(page: Any) -> str:
    """What the line under the viewer says about the crosshair."""
    text: str = page.locator(".mf-line").inner_text()
    return text


def wait_for_volume(page: Any) -> None:
    page.locator(".mf-line", has_text="mm").wait_for()
    page.locator(".mf-loading").wait_for(state="detached")


def test_upload_ask_and_click_on_the_evidence(visit: Any, shot: Any, ct: Path) -> None:
    page = visit()
    shot(page, "1-empty")
    upload(page, ct)
    wait_for_volume(page)
    assert "HU" in place(page)
    shot(page, "2-ct")
    before = place(page)
    answer = ask(page, "where is the liver?")
    assert "confidence moderate (0.83)" in answer.inner_text()
    answer.locator(".mf-chip").click()
    page.wait_for_function("(old) => document.querySelector('.mf-line').innerText !== old", arg=before)
    assert "slice 11 of 40" in place(page), "the fake box is clearest in slice 10, counted from 0"
    declined = ask(page, "is there a nodule?")
    assert "Not answered" in declined.inner_text()
    assert "mf-abstained" in declined.get_attribute("class")
    shot(page, "3-evidence")
    assert page.errors == []


def test_a_single_slice_of_ct_has_its_windows(visit: Any, shot: Any, ct: Path, tmp_path: Path) -> None:
    scan = medfm.Scan.read(ct)
    one = medfm.Scan.from_array(scan.data[:, 24:25], affine=scan.affine, modality="CT", units="HU")
    one.write(tmp_path / "slice.nii.gz")
    page = visit()
    drop(page, tmp_path / "slice.nii.gz")
    wait_for_volume(page)
    assert "HU" in place(page) and "slice 1 of 1" in place(page)
    page.get_by_role("button", name="lung", exact=True).click()
    page.get_by_role("button", name="mark", exact=True).click()
    box = page.locator(".mf-pane").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2 + 80 / 384 * box["height"], box["y"] + box["height"] / 2)
    page.locator(".mf-answer.mf-done").wait_for()
    assert "Marked region" in page.locator(".mf-answer").inner_text()
    page.locator(".mf-stage").focus()
    page.keyboard.press("Escape")
    assert page.get_by_role("button", name="mark", exact=True).get_attribute("aria-pressed") == "false"
    page.locator(".mf-answer .mf-chip").click()
    shot(page, "16-one-slice")
    assert page.errors == []


def test_what_is_clicked_on_is_outlined(visit: Any, shot: Any, ct: Path) -> None:
    page = visit()
    upload(page, ct)
    wait_for_volume(page)
    page.get_by_role("button", name="axial", exact=True).click()
    page.wait_for_timeout(500)
    page.get_by_role("button", name="mark", exact=True).click()
    box = page.locator(".mf-pane").bounding_box()
    x, y = box["x"] + box["width"] / 2 + 80 / 384 * box["height"], box["y"] + box["height"] / 2
    page.mouse.click(x, y)
    page.locator(".mf-answer.mf-done").wait_for()
    said = page.locator(".mf-answer").inner_text()
    assert "like brightness" in said
    lung = 4 / 3 * np.pi * 14 * 20 * 16 * 4 * 4 * 6 / 1000
    millilitres = float(re.search(r"Marked region · ([\d.]+) ml", said)[1])
    assert abs(millilitres / lung - 1) < 0.1, "the click fell on something else"
    side = 14 * 4 / 384 * box["height"] * 1.5
    page.mouse.move(x - side, y - side * 1.3)
    page.mouse.down()
    page.mouse.move(x + side, y + side * 1.3, steps=4)
    page.mouse.up()
    page.locator(".mf-answer.mf-done").nth(1).wait_for()
    assert "this slice only" in page.locator(".mf-answer").last.inner_text()
    page.locator(".mf-answer").last.locator(".mf-chip").click()
    shot(page, "15-marked")
    assert page.errors == []


def test_the_shipped_model_outlines_the_kidney_that_is_clicked_on(
    visit: Any, shot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medfm.assistant import task_models
    from medfm.prompter import load_prompter

    monkeypatch.setattr(task_models, "prompter", lambda: load_prompter("prompt"))
    page = visit()
    page.get_by_role("button", name="Demo: abdomen MR").click()
    page.locator("img.mf-picture").wait_for()
    page.get_by_role("button", name="mark", exact=True).click()
    box = page.locator(".mf-pane").bounding_box()
    scale = min(box["width"] / 350, box["height"] / 217)  # the slice is 350 x 217 mm, a kidney on either side
    page.mouse.click(box["x"] + box["width"] / 2 + 59 * scale, box["y"] + box["height"] / 2 + 52 * scale)
    page.locator(".mf-answer.mf-done").wait_for()
    said = page.locator(".mf-answer").inner_text()
    assert "Outlined by the model prompt" in said
    assert 3 < float(re.search(r"Marked region · ([\d.]+) ml", said)[1]) < 7, "4.7 ml of it are in this slice"
    page.locator(".mf-answer .mf-chip").click()
    shot(page, "17-prompted")
    assert page.errors == []


def test_a_draft_is_edited_and_saved(visit: Any, shot: Any, ct: Path) -> None:
    page = visit()
    page.get_by_role("tab", name="Report").click()
    shot(page, "20-report-empty")
    upload(page, ct)
    wait_for_volume(page)
    page.get_by_placeholder("Why was it made?").fill("cough since <b>May</b>")
    page.locator("#mf-draft-button").click()
    page.locator(".mf-sentence").first.wait_for()
    assert "cough since <b>May</b>" in page.locator(".mf-context").inner_text()
    assert "not for diagnosis" in page.locator(".mf-watermark").inner_text()
    shot(page, "21-report")
    before = place(page)
    page.locator(".mf-report .mf-chip").first.click()
    page.wait_for_function("(old) => document.querySelector('.mf-line').innerText !== old", arg=before)
    first = page.locator(".mf-sentence").nth(1)
    first.get_by_role("button", name="Edit").click()
    page.locator(".mf-sentence textarea").fill("A small effusion <i>on the left</i>.")
    page.locator(".mf-sentence").nth(2).get_by_role("button", name="Reject").click()
    page.locator(".mf-is-rejected").wait_for()
    page.get_by_role("button", name="Save", exact=True).click()  # what was typed before is still there
    page.locator(".mf-is-edited", has_text="A small effusion <i>on the left</i>.").wait_for()
    page.locator("#mf-draft-button").click()
    page.locator(".mf-report-error", has_text="with your word on 2 sentences").wait_for()
    assert page.locator(".mf-is-edited").count() == 1
    page.locator(".mf-sentence").nth(0).get_by_role("button", name="Accept").click()
    page.locator(".mf-is-accepted").wait_for()
    assert "1 sentence" in page.locator(".mf-left").inner_text()
    shot(page, "22-report-decided")
    page.locator(".mf-exports").get_by_role("button", name="Markdown").click()
    page.locator(".mf-file").wait_for()
    with page.expect_download() as saving:
        page.locator(".mf-file").click()
    text = Path(saving.value.path()).read_text()
    assert saving.value.suggested_filename == "report.md"
    assert "A small effusion" in text and "may be enlarged" not in text
    assert page.errors == []


def test_hostile_text_stays_text(visit: Any, shot: Any, tmp_path: Path) -> None:
    from PIL import Image
    from scan_builders import phantom, ras_affine, series

    page = visit()
    (tmp_path / "broken.png").write_bytes(b"no picture")
    upload(page, tmp_path / "broken.png")
    page.locator(".mf-error", has_text="broken.png").wait_for()
    shot(page, "4-refused")
    for number, text in enumerate((HOSTILE[:60], "plain")):
        series(tmp_path / str(number), phantom(), ras_affine(), uid=f"1.2.{number}", SeriesDescription=text)
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for file in sorted(tmp_path.glob("[01]/*")):
            archive.write(file, f"{file.parent.name}/{file.name}")
    upload(page, tmp_path / "study.zip")
    page.get_by_label("Several series are here").click()
    page.get_by_role("option").first.wait_for()
    shot(page, "4-series")
    page.get_by_role("option").first.click()
    wait_for_volume(page)
    assert page.title() == "medfm"
    Image.fromarray(np.full((60, 80), 90, np.uint8)).save(tmp_path / "picture.png")
    upload(page, tmp_path / "picture.png")
    page.locator("img.mf-picture").wait_for()
    ask(page, HOSTILE)
    assert page.title() == "medfm"
    assert page.locator(".mf-turns img, .mf-turns script, .mf-facts img").count() == 0
    assert "**bold** ${1+1}" in page.locator(".mf-person").inner_text()
    shot(page, "5-hostile")


def test_two_browsers_see_their_own_scan_only(visit: Any, pictures: Path, ct: Path) -> None:
    one, two = visit(), visit()
    upload(one, ct)
    wait_for_volume(one)
    drop(two, pictures / "dark.png")
    two.locator("img.mf-picture").wait_for()
    ask(one, "is the picture bright?")
    ask(two, "what modality is this?")
    assert "CT" in one.locator(".mf-facts").inner_text()
    assert "32 x 24" in two.locator(".mf-facts").inner_text()
    assert two.locator(".mf-person").all_inner_texts() == ["what modality is this?"]
    stolen = one.evaluate("() => document.querySelector('#mf-viewer .html-container > div').medfm.value.current.url")
    status = two.evaluate("(url) => fetch(url).then((answer) => answer.status)", stolen)
    assert status == 404, "one browser reads the scan of the other"


@pytest.mark.slow
def test_the_viewer_by_mouse_and_keys(visit: Any, shot: Any, ct: Path) -> None:
    page = visit()
    upload(page, ct)
    wait_for_volume(page)
    for name in ("coronal", "sagittal", "3D", "axial"):
        page.get_by_role("button", name=name, exact=True).click()
        shot(page, f"6-{name}")
    for name in ("lung", "bone", "brain"):
        page.get_by_role("button", name=name, exact=True).click()
        shot(page, f"7-{name}")
    page.get_by_role("button", name="soft tissue", exact=True).click()
    stage = page.locator(".mf-stage")
    stage.focus()
    before = place(page)
    page.keyboard.press("ArrowUp")
    page.wait_for_function("(old) => document.querySelector('.mf-line').innerText !== old", arg=before)
    assert re.search(r"slice 22 of 40", place(page)), place(page)
    page.keyboard.press(" ")
    page.wait_for_timeout(1500)
    page.keyboard.press(" ")
    assert "slice 22 of 40" not in place(page), "play moved nothing"
    ask(page, "measure the liver").locator(".mf-chip").click()
    stage.focus()
    page.keyboard.press("o")
    assert page.get_by_role("button", name="overlay").get_attribute("aria-pressed") == "false"
    page.get_by_role("button", name="measure", exact=True).click()
    box = stage.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.35, box["y"] + box["height"] * 0.5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.65, box["y"] + box["height"] * 0.5, steps=5)
    page.mouse.up()
    shot(page, "8-measured")
    assert page.errors == []


@pytest.mark.slow
def test_current_and_prior_side_by_side(visit: Any, shot: Any, ct: Path, tmp_path: Path) -> None:
    page = visit()
    upload(page, ct)
    wait_for_volume(page)
    page.get_by_label("prior").check()
    scan = medfm.Scan.read(ct)
    medfm.Scan.from_array(scan.data + 60, affine=scan.affine, modality="CT", units="HU").write(tmp_path / "p.nii.gz")
    upload(page, tmp_path / "p.nii.gz")
    page.locator(".mf-which", has_text="prior").wait_for()
    page.locator(".mf-loading").first.wait_for(state="detached")
    wait_for_volume(page)
    answer = ask(page, "compare the liver with the prior")
    assert answer.locator(".mf-chip").count() == 2
    answer.locator(".mf-chip").last.click()
    shot(page, "9-prior")
    assert page.errors == []


@pytest.mark.slow
def test_a_series_of_dicom_files_in_a_zip(visit: Any, shot: Any, tmp_path: Path) -> None:
    source = os.environ.get("MEDFM_DATA")
    if source is None:
        pytest.skip("MEDFM_DATA is not set")
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for file in sorted((Path(source) / "body_ct_dicom").iterdir()):
            archive.write(file, file.name)
    page = visit()
    upload(page, tmp_path / "study.zip")
    wait_for_volume(page)
    shot(page, "10-dicom")
    files = sorted((Path(source) / "body_ct_dicom").iterdir())
    upload(page, *files)
    page.wait_for_timeout(3000)
    wait_for_volume(page)
    assert page.locator(".mf-error").count() == 0


@pytest.mark.slow
def test_dark_and_on_a_tablet(visit: Any, shot: Any, pictures: Path) -> None:
    page = visit(color_scheme="dark")
    page.get_by_role("button", name="Demo: abdomen MR").click()
    page.locator("img.mf-picture").wait_for()
    ask(page, "where is the liver?").locator(".mf-chip").click()
    ask(page, "is there a nodule?")
    shot(page, "11-dark")
    tablet = visit(viewport={"width": 820, "height": 1180}, has_touch=True)
    tablet.get_by_role("button", name="Demo: brain MR").click()
    wait_for_volume(tablet)
    ask(tablet, "measure the liver").locator(".mf-chip").click()
    shot(tablet, "12-tablet")
    wide = tablet.evaluate("() => document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 0, "the page scrolls sideways on a tablet"
