"""The chat page: a scan, its slices, questions, streamed answers. For this machine only; nothing leaves it."""

from __future__ import annotations

import html
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported: no look-up at api.gradio.app
os.environ["GRADIO_RUN_HISTORY"] = "False"

import gradio as gr

import medfm
from medfm.cli.words import DISCLAIMER, about_answer, about_scan, evidence
from medfm.errors import MedfmError, SeriesChoice
from medfm.image.display import slice_picture

DEMOS = {"abdomen MR": "abdomen_mr.dcm", "brain MR, a volume": "brain_t1.nii.gz"}
PLANES = ["axial", "coronal", "sagittal"]
HOUR = 3600  # seconds after which pictures of slices are deleted
Messages = list[dict[str, Any]]


@dataclass
class Session:
    """What one browser tab has open. It lives in gr.State, so two tabs never see each other's scan."""

    scan: medfm.Scan | None = None
    uploaded: list[str] = field(default_factory=list)


def forget(session: Session) -> None:
    """Delete what was uploaded; the pixels are in memory by then, or the tab is gone."""
    for path in session.uploaded:
        Path(path).unlink(missing_ok=True)
    session.uploaded = []


def read(files: list[str], *, series: str | None = None) -> medfm.Scan:
    """One file as it is; several (slices of a series, a header and its data) as a folder, under their own names."""
    if len(files) == 1:
        return medfm.Scan.read(files[0], series=series)
    with tempfile.TemporaryDirectory(dir=os.environ.get("GRADIO_TEMP_DIR")) as folder:
        for number, file in enumerate(files):
            target = Path(folder) / Path(file).name
            # slices from several folders may share a name
            shutil.copyfile(file, target if not target.exists() else target.with_name(f"{number}-{target.name}"))
        return medfm.Scan.read(folder, series=series)


def open_files(files: list[str] | None, session: Session) -> tuple[Any, ...]:
    """Read an upload; when it holds several series, offer them."""
    forget(session)
    session.uploaded = files or []
    return shown(session, series=None)


def open_series(series: str | None, session: Session) -> tuple[Any, ...]:
    """Read the chosen one of several series."""
    return shown(session, series=None if series is None else series.split(":", 1)[0])


def open_demo(name: str, session: Session) -> tuple[Any, ...]:
    """Read a scan that ships with medfm."""
    forget(session)
    session.scan = medfm.Scan.read(Path(__file__).parent / "demo" / DEMOS[name])
    return opened(session)


def shown(session: Session, *, series: str | None) -> tuple[Any, ...]:
    """Try to read the upload and say what happened."""
    session.scan = None
    if not session.uploaded:
        return closed(session, "Open a scan to begin.")
    try:
        session.scan = read(session.uploaded, series=int(series) if series else None)
    except SeriesChoice as choice:
        names = [f"{number}: {text}" for number, text in enumerate(choice.choices)]
        return closed(
            session, "Several series are here. Choose one.", series=gr.update(choices=names, value=None, visible=True)
        )
    except MedfmError as error:
        message = str(error).replace(str(Path(session.uploaded[0]).parent), "").strip("/")
        forget(session)
        return closed(session, message)
    forget(session)
    return opened(session)


def closed(session: Session, message: str, *, series: Any = None) -> tuple[Any, ...]:
    """No scan is open: session, series, message, slider, plane, picture, chat."""
    hidden = gr.update(visible=False)
    return session, series or hidden, message, hidden, hidden, None, []


def opened(session: Session) -> tuple[Any, ...]:
    """A scan is open: its facts, the middle slice, an empty conversation."""
    scan = session.scan
    assert scan is not None
    plane = scan.best_plane
    count = scan.slices(plane)[0].shape[1]
    middle = count // 2
    slider = gr.update(minimum=0, maximum=max(count - 1, 1), value=middle, visible=count > 1)
    planes = gr.update(value=plane, visible=scan.frame == "patient" and scan.data.shape[1] > 1)
    facts = "\n".join([about_scan(scan), *(f"note: {warning}" for warning in scan.notes)])
    return session, gr.update(visible=False), facts, slider, planes, slice_picture(scan, middle, plane=plane), []


def turn(plane: str | None, session: Session) -> tuple[Any, Any]:
    """Another plane: as many slices as it has, the middle one first."""
    if session.scan is None:
        return gr.update(), None
    count = session.scan.slices(plane)[0].shape[1]
    slider = gr.update(maximum=max(count - 1, 1), value=count // 2, visible=count > 1)
    return slider, slice_picture(session.scan, count // 2, plane=plane)


def scroll(index: float, plane: str | None, session: Session) -> Any:
    """Another slice."""
    return None if session.scan is None else slice_picture(session.scan, int(index), plane=plane)


def put(question: str, history: Messages) -> tuple[str, Messages]:
    """The question into the conversation, the box empty."""
    question = question.strip()
    return "", [*history, message("user", question)] if question else history


def message(role: str, text: str) -> dict[str, Any]:
    """An entry of the conversation, escaped: with Markdown off gradio 6.31 still renders <img>, and would fetch it."""
    return {"role": role, "content": html.escape(text, quote=False)}


def build(loading: Future[Any]) -> gr.Blocks:
    """The page. `loading` gives the model, which all tabs share and none changes."""

    def reply(history: Messages, session: Session) -> Iterator[Messages]:
        if not history or history[-1]["role"] != "user":
            yield history
            return
        for text in answer(loading, session, html.unescape(plain(history[-1]["content"]))):
            yield [*history, message("assistant", text)]

    with gr.Blocks(title="medfm", delete_cache=(HOUR // 6, HOUR), analytics_enabled=False) as page:
        session = gr.State(Session(), time_to_live=8 * HOUR, delete_callback=forget)
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                upload = gr.File(
                    label="Scan: a file, a zip, or all files of a series", file_count="multiple", height=120
                )
                with gr.Row():
                    demos = [gr.Button(f"Try: {name}", size="sm") for name in DEMOS]
                series = gr.Dropdown(label="Series", visible=False)
                facts = gr.Textbox("Open a scan to begin.", label="What was read", interactive=False, lines=2)
                picture = gr.Image(label="Slice", interactive=False, buttons=["fullscreen"], height=400)
                slider = gr.Slider(0, 1, step=1, label="Slice", visible=False)
                plane = gr.Radio(PLANES, label="Plane", visible=False)
            with gr.Column(scale=1, min_width=320):
                # file headers, questions and answers are text of others: never rendered as HTML or Markdown
                chat = gr.Chatbot(
                    label="Conversation", height=560, render_markdown=False, sanitize_html=True, allow_tags=False,
                    latex_delimiters=[], feedback_options=None, buttons=["copy"],
                )  # fmt: skip
                question = gr.Textbox(placeholder="Ask about this scan", show_label=False, max_length=1000)
                with gr.Row():
                    send = gr.Button("Ask", variant="primary")
                    stop = gr.Button("Stop")
        gr.Textbox(DISCLAIMER, show_label=False, interactive=False, container=False)

        view = [session, series, facts, slider, plane, picture, chat]
        upload.upload(open_files, [upload, session], view, api_name="open").then(
            lambda: None, None, upload, api_name=False
        )
        series.input(open_series, [series, session], view, api_name="series")
        for button, name in zip(demos, DEMOS, strict=True):
            button.click(lambda session, name=name: open_demo(name, session), session, view, api_name=False)
        plane.input(turn, [plane, session], [slider, picture], api_name=False)
        slider.input(
            scroll,
            [slider, plane, session],
            picture,
            api_name="slice",
            trigger_mode="always_last",
            show_progress="hidden",
        )
        asked = [
            event(put, [question, chat], [question, chat], api_name=False, queue=False).then(
                reply, [chat, session], chat, api_name=name, concurrency_id="model"
            )
            for event, name in ((question.submit, "reply"), (send.click, False))
        ]
        stop.click(None, None, None, cancels=asked, api_name=False)
    return page.queue(default_concurrency_limit=1)


def plain(content: Any) -> str:
    """A message's text, whether the chat component hands it over as text or as a list of parts."""
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content if part.get("type") == "text")


def answer(loading: Future[Any], session: Session, question: str) -> Iterator[str]:
    """The answer as it grows, and at its end how sure the model is and what it rests on."""
    if session.scan is None:
        yield "Open a scan first."
        return
    while not loading.done():
        yield "The model is still loading ..."
        wait([loading], timeout=1)
    try:
        pieces, said = medfm.stream(loading.result(), session.scan, question), ""
        while True:
            try:
                said += next(pieces)
            except StopIteration as end:
                result = end.value
                break
            yield said
    except MedfmError as error:
        yield f"This did not work: {error}"
        return
    lines = [about_answer(result), *(f"evidence: {line}" for line in evidence(result))]
    yield "\n".join([*([] if result.abstained else [result.text]), *lines])


def launch(adapter: str, *, host: str, port: int) -> None:
    """Serve the page until it is interrupted; the model loads once it is up. `port` 0 takes a free one."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stopped service cleans up like Ctrl-C does
    with tempfile.TemporaryDirectory(prefix="medfm-chat-") as folder:  # uploads and slices end with the server
        os.environ["GRADIO_TEMP_DIR"] = folder
        loading: Future[Any] = Future()
        page = build(loading)
        try:
            _, address, _ = page.launch(
                server_name=host, server_port=port or None, prevent_thread_lock=True, quiet=True, **SWITCHES
            )
        except OSError as error:
            raise MedfmError(f"the page cannot be served on {host}:{port} ({error}); try another --port") from error
        print(f"medfm is at {address} (Ctrl-C stops it)", file=sys.stderr)
        threading.Thread(target=load_into, args=(loading, adapter), daemon=True).start()
        page.block_thread()


def load_into(loading: Future[Any], adapter: str) -> None:
    """Load the model; a failure is kept for whoever asks."""
    try:
        loading.set_result(medfm.load(adapter))
    except Exception as error:
        loading.set_exception(error)


SWITCHES: dict[str, Any] = {
    "share": False,
    "run_history": False,  # gradio keeps every run's inputs in the browser otherwise
    "footer_links": [],
    "enable_monitoring": False,
    "ssr_mode": False,
    "max_file_size": "4gb",
    "theme": gr.themes.Default(),
}

if __name__ == "__main__":
    launch("default", host="127.0.0.1", port=7860)
