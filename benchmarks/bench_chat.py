"""The chat page as a person meets it, in Chromium with the real model: seconds from dropping a series to the first
word, and ten sessions that ask at once. Needs playwright, a Chromium and a folder or zip of one DICOM series."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Browser, Page, sync_playwright

WEBGL = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
QUESTIONS = ["What modality is used to take this image?", "Which part of the body does this image belong to?"]
MINUTES = 10 * 60_000


@contextmanager
def served(adapter: str) -> Iterator[tuple[str, psutil.Process]]:
    """The page on a free port: its address and its process."""
    command = [str(Path(sys.executable).with_name("medfm")), "chat", "--port", "0", "--adapter", adapter]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        for line in server.stderr:
            if found := re.search(r"http://\S+", line):
                threading.Thread(target=server.stderr.read, daemon=True).start()
                yield found[0], psutil.Process(server.pid)
                return
        raise SystemExit("the page did not start")
    finally:
        server.terminate()
        server.wait(timeout=60)


def visit(browser: Browser, address: str) -> Page:
    page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
    page.set_default_timeout(MINUTES)
    page.goto(address)
    page.get_by_text("is ready").wait_for()
    return page


def answered(page: Page, question: str) -> tuple[float, float]:
    """Seconds to the first word of the answer and to its end."""
    before = page.locator(".mf-answer").count()
    page.get_by_placeholder("Ask about this scan").fill(question)
    page.keyboard.press("Enter")
    start = time.perf_counter()
    page.wait_for_function(
        "(n) => { const all = document.querySelectorAll('.mf-answer'); const last = all[all.length - 1];"
        " return all.length > n && !last.querySelector('.mf-busy') && last.innerText.trim(); }",
        arg=before, polling=50,
    )  # fmt: skip
    first = time.perf_counter() - start
    page.wait_for_function(
        "(n) => { const all = document.querySelectorAll('.mf-answer');"
        " return all.length > n && !all[all.length - 1].matches('.mf-waiting, .mf-running'); }",
        arg=before, polling=50,
    )  # fmt: skip
    return first, time.perf_counter() - start


def drop(browser: Browser, address: str, study: Path) -> dict[str, float]:
    """One series dropped, seen and asked about."""
    page = visit(browser, address)
    ended: list[float] = []
    page.on("response", lambda r: ended.append(time.perf_counter()) if "/upload" in r.url and not ended else None)
    start = time.perf_counter()
    page.locator("#mf-upload input[type=file]").set_input_files(str(study))
    page.locator(".mf-line", has_text="mm").wait_for()
    page.locator(".mf-loading").wait_for(state="detached")
    seen = time.perf_counter()
    asked = time.perf_counter() - start
    first, end = answered(page, QUESTIONS[0])
    again, again_end = answered(page, QUESTIONS[1])
    page.context.close()
    return {
        "viewer after the upload's end": seen - ended[0], "first word after the drop": asked + first,
        "answer after the drop": asked + end,
        "second question, first word": again, "second question, answer": again_end,
    }  # fmt: skip


def crowd(browser: Browser, address: str, count: int) -> dict[str, Any]:
    """Sessions of their own browsers, each with a scan; all ask at once."""
    pages = [visit(browser, address) for _ in range(count)]
    for page in pages:
        page.get_by_role("button", name="Demo: abdomen MR").click()
        page.locator("img.mf-picture").wait_for()
    start, places, ends = time.perf_counter(), set(), {}
    for number, page in enumerate(pages):
        page.get_by_placeholder("Ask about this scan").fill(QUESTIONS[number % 2])
        page.keyboard.press("Enter")
    while len(ends) < count and time.perf_counter() - start < MINUTES / 1000:
        for number, page in enumerate(pages):
            text = page.locator(".mf-answer").all_inner_texts()
            if text and (found := re.search(r"In line: (\d+)", text[-1])):
                places.add(int(found[1]))
            elif text and "confidence" in text[-1] and number not in ends:
                ends[number] = time.perf_counter() - start
    for page in pages:
        page.context.close()
    return {
        "answered": len(ends),
        "last answer after": max(ends.values(), default=0),
        "places in line seen": sorted(places),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("series", type=Path, help="folder or zip of one DICOM series")
    parser.add_argument("--adapter", default="default")
    parser.add_argument("--sessions", type=int, default=10)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, served(options.adapter) as (address, server), sync_playwright() as p:
        study = options.series
        if study.is_dir():
            study = Path(folder) / "study.zip"
            with zipfile.ZipFile(study, "w") as archive:
                for file in sorted(options.series.iterdir()):
                    archive.write(file, file.name)
        browser = p.chromium.launch(executable_path=options.chromium, args=["--no-sandbox", *WEBGL])
        most, done = [server.memory_info().rss], threading.Event()

        def watch() -> None:
            while not done.wait(0.2):
                most.append(server.memory_info().rss)

        threading.Thread(target=watch, daemon=True).start()
        print(f"load of the machine: {psutil.getloadavg()[0]:.1f} on {psutil.cpu_count()} cores")
        for name, seconds in drop(browser, address, study).items():
            print(f"{name}: {seconds:.1f} s")
        print(f"memory of the server with one session: {max(most) / 2**20:.0f} MiB at most")
        for name, value in crowd(browser, address, options.sessions).items():
            print(
                f"{options.sessions} sessions at once, {name}: {value:.1f} s"
                if isinstance(value, float)
                else f"{name}: {value}"
            )
        done.set()
        print(f"memory of the server: {max(most) / 2**20:.0f} MiB at most")
        browser.close()


if __name__ == "__main__":
    main()
