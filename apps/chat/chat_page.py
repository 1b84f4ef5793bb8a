"""The page: what is on it and what happens on a click; scripts of static/ draw the JSON that is handed out here."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from chat_parts import Parts, key_of
from chat_report import report_part
from chat_sessions import Session
from chat_views import facts_of, failed, marked_call, talk_of, view_of, viewer_of

import medfm
from medfm.assistant import Turn, respond, run_tool
from medfm.assistant.drafts import drafted
from medfm.assistant.words import about_scan
from medfm.errors import MedfmError, SeriesChoice

DEMOS = {"abdomen MR": "abdomen_mr.dcm", "brain MR": "brain_t1.nii.gz"}
LONGEST = 1000  # characters of a question; the browser keeps to it, others may not
_CHOOSE = "Several series are here: choose one above."
_CLOSING = 3.0  # seconds until a closed page is noticed
HOUR = 3600  # seconds after which an upload that was never opened is deleted
Shown = tuple[Any, ...]


def drawn(script: str, *, events: str = "", **more: Any) -> gr.HTML:
    """A component that a script of static/ draws from the JSON in its value. `events`: what it can trigger."""
    load = (
        f"/* {events} */ import(new URL('medfm/static/{script}', document.baseURI).href)"
        ".then((part) => part.mount({ element, props, watch, trigger }))"
        ".catch((error) => { element.textContent = 'This part of the page could not be loaded: ' + error; });"
    )
    return gr.HTML(
        html_template="<div></div>", js_on_load=load, apply_default_css=False, elem_classes="mf-part", **more
    )


def build(parts: Parts) -> gr.Blocks:
    """The page, its components and its events."""
    with gr.Blocks(title="medfm", delete_cache=(HOUR // 6, HOUR), analytics_enabled=False) as page:
        header = drawn("header.js", value={"text": "", "state": ""})
        with gr.Row(equal_height=False):
            with gr.Column(scale=6, min_width=460, elem_id="mf-left"):
                entry, facts, viewer = _left(parts)
            with gr.Column(scale=4, min_width=340, elem_id="mf-right"):
                talking = _right(parts, viewer)
        shown = [facts, viewer, talking.talk, entry.series, entry.role, talking.report]
        _opening(parts, entry, shown)
        _asking(parts, talking, viewer)
        page.load(_progress(parts), None, header, api_name=False, concurrency_limit=None, show_progress="hidden")
        page.unload(_leaving(parts))
        tab = gr.JSON(visible=False)
        page.load(
            _returning(parts), tab, shown, js=_TAB, api_name="back", concurrency_limit=None, show_progress="hidden"
        )
    return page.queue(default_concurrency_limit=4)


@dataclass
class Entry:
    """The components through which scans come in."""

    upload: gr.File
    role: gr.Radio
    series: gr.Dropdown
    demos: list[gr.Button]
    path: gr.Textbox | None


@dataclass
class Talking:
    """The components of the conversation."""

    talk: gr.HTML
    question: gr.Textbox
    send: gr.Button
    stop: gr.Button
    adapter: gr.Dropdown
    report: gr.HTML


def _left(parts: Parts) -> tuple[Entry, gr.HTML, gr.HTML]:
    with gr.Row(elem_id="mf-entry"):
        upload = gr.File(
            label="Scan: DICOM zip or files, NIfTI, NRRD, picture",
            file_count="multiple",
            height=58,
            elem_id="mf-upload",
        )
        with gr.Column(min_width=200, elem_id="mf-choose"):
            with gr.Row():
                demos = [gr.Button(f"Demo: {name}", size="sm", min_width=90) for name in DEMOS]
            with gr.Row():
                role = gr.Radio(
                    ["current", "prior"], value="current", show_label=False, visible=False, container=False, scale=1,
                    min_width=180,
                )  # fmt: skip
                path = None
                if parts.intake.roots:
                    path = gr.Textbox(
                        placeholder="Path on the server", show_label=False, container=False,
                        max_length=4000, scale=2, min_width=160,
                    )  # fmt: skip
            series = gr.Dropdown(label="Several series are here: choose one", visible=False)
    facts = drawn("facts.js", value={"facts": [], "notes": [], "error": None})
    viewer = drawn("viewer.js", events="'mark'", value={}, elem_id="mf-viewer")
    return Entry(upload, role, series, demos, path), facts, viewer


def _right(parts: Parts, viewer: gr.HTML) -> Talking:
    names = parts.adapters or [parts.adapter]
    with gr.Tabs(elem_id="mf-tabs"):
        with gr.Tab("Ask", elem_id="mf-tab-ask"):
            talk = drawn(
                "talk.js", events="'suggest'", value={"turns": [], "suggestions": [], "open": False}, elem_id="mf-talk"
            )
            with gr.Row(elem_id="mf-ask"):
                question = gr.Textbox(
                    placeholder="Ask about this scan, or: measure the liver", show_label=False, max_length=LONGEST,
                    container=False, scale=5, min_width=160,
                )  # fmt: skip
                send = gr.Button("Ask", variant="primary", scale=1, min_width=60)
                stop = gr.Button("Stop", scale=1, min_width=60)
        with gr.Tab("Report", elem_id="mf-tab-report"):
            adapter = gr.Dropdown(names, value=parts.adapter, label="Model", visible=len(names) > 1, render=False)
            report = report_part(parts, drawn, adapter, talk, viewer)
    adapter.render()
    return Talking(talk, question, send, stop, adapter, report)


def _opening(parts: Parts, entry: Entry, shown: list[Any]) -> None:
    """Uploads, demo scans, folders and the choice among series."""

    def upload(files: list[str] | None, role: str, request: gr.Request) -> Shown:
        session = parts.session(request)
        session.take([str(file) for file in files or []])
        return *show(parts, session, lambda: parts.intake.read_files(session.files), role=role), None

    def folder(path: str, role: str, request: gr.Request) -> Shown:
        session = parts.session(request)
        session.take([])
        session.path = path
        return show(parts, session, lambda: parts.intake.read_path(path), role=role)

    def series(choice: str | None, role: str, request: gr.Request) -> Shown:
        session = parts.session(request)
        number = int((choice or "0").split(":", 1)[0])
        found = re.search(r"\(UID ([\d.]+)\)", choice or "")
        session.series = found[1] if found else None

        def read() -> medfm.Scan:
            if session.path is not None:
                return parts.intake.read_path(session.path, series=number)
            if not session.files:
                raise MedfmError("That upload is gone. Upload it again.")
            return parts.intake.read_files(session.files, series=number)

        return show(parts, session, read, role=role, keep=True)

    def demo(name: str) -> Callable[..., Shown]:
        def open_demo(role: str, request: gr.Request) -> Shown:
            path = Path(__file__).parent / "demo" / DEMOS[name]
            session = parts.session(request)
            session.take([])
            session.source = path
            return show(parts, session, lambda: medfm.Scan.read(path), role=role)

        return open_demo

    seen: dict[str, Any] = {"show_progress": "minimal", "show_progress_on": shown[1]}  # not on six parts of the page
    entry.upload.upload(upload, [entry.upload, entry.role], [*shown, entry.upload], api_name="open", **seen)
    entry.series.input(series, [entry.series, entry.role], shown, api_name="series", **seen)
    for button, name in zip(entry.demos, DEMOS, strict=True):
        button.click(demo(name), entry.role, shown, api_name=False, **seen)
    if entry.path is not None:
        entry.path.submit(folder, [entry.path, entry.role], shown, api_name="folder", **seen)


def show(parts: Parts, session: Session, read: Callable[[], medfm.Scan], *, role: str, keep: bool = False) -> Shown:
    """Read a scan and put it on the screen, or say in words why not.

    role: "current" or "prior". keep: the list of series stays, for a second one. Returns facts, viewer, conversation,
    series, role, report.
    """
    prior = _is_prior(session, role)
    refused, series = None, gr.update()
    try:
        scan = read()
        which = "prior" if prior else "current"
        view = view_of(session, scan, which)
    except SeriesChoice as choice:
        session.choices = [f"{number}: {text}" for number, text in enumerate(choice.choices)]
        refused, series = _CHOOSE, series_of(session)
    except MedfmError as error:
        refused = str(error)
        session.talk.log("open", outcome="refused")
    if refused is not None:
        return refusal(session, refused, series)
    if not prior:
        session.begin()
        session.opened()
    session.talk.open(scan, prior=prior)
    session.views = {**(session.views if prior else {}), which: view}
    facts, viewer, talk, _, role_now, draft = standing(session)
    return facts, viewer, talk, gr.update() if keep else gr.update(visible=False), role_now, draft


def _is_prior(session: Session, role: str) -> bool:
    """Without a current scan, whatever comes is the current one."""
    return role == "prior" and session.talk.current is not None


def _asking(parts: Parts, talking: Talking, viewer: gr.HTML) -> None:
    """Question, answer, stop."""

    def put(question: str, request: gr.Request) -> tuple[Any, Any]:
        session, question = parts.session(request), question.strip()[:LONGEST]
        if not question or _busy(session):
            return gr.skip(), gr.skip()
        session.talk.turns.append(Turn("person", question))
        return "", talk_of(session)

    def suggested(request: gr.Request, event: gr.EventData) -> tuple[Any, Any]:
        return put(str(event.question), request)

    def marked(request: gr.Request, event: gr.EventData) -> Any:
        session = parts.session(request)
        if session.talk.current is None or _busy(session):
            return gr.skip()
        session.marked = marked_call(session, point=event.point, box=event.box)
        session.talk.turns.append(Turn("person", "Outline what I marked in the image."))
        return talk_of(session)

    def answer(adapter: str, request: gr.Request) -> Iterator[tuple[Any, Any, Any]]:
        yield from reply(parts, parts.session(request), adapter)

    def stop(request: gr.Request) -> None:
        parts.session(request).stopped.set()

    talk, question = talking.talk, talking.question
    quick: dict[str, Any] = {"api_name": False, "queue": False, "show_progress": "hidden"}
    answers: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden"}
    asked = question.submit(put, question, [question, talk], **quick)
    asked.then(answer, talking.adapter, [talk, viewer, talking.report], api_name="reply", **answers)
    sent = talking.send.click(put, question, [question, talk], **quick)
    sent.then(answer, talking.adapter, [talk, viewer, talking.report], api_name=False, **answers)
    taken = talk.suggest(suggested, None, [question, talk], **quick)
    taken.then(answer, talking.adapter, [talk, viewer, talking.report], api_name=False, **answers)
    pointed = viewer.mark(marked, None, talk, **quick)
    pointed.then(answer, talking.adapter, [talk, viewer, talking.report], api_name=False, **answers)
    talking.stop.click(stop, None, None, **quick)


def _busy(session: Session) -> bool:
    """A question is still without its answer."""
    last = session.talk.turns[-1] if session.talk.turns else None
    return last is not None and (last.role == "person" or last.state in ("waiting", "running"))


def reply(parts: Parts, session: Session, adapter: str) -> Iterator[tuple[Any, Any, Any]]:
    """The conversation as it grows, the viewer once there are new masks, the report once there is a new draft."""
    talk, stopped = session.talk, session.stopped
    turns = talk.turns
    if not turns or turns[-1].role != "person" or turns[-1] is session.answering:  # Enter pressed twice
        return
    session.answering = turns[-1]
    asked, call = turns[-1].text, session.marked
    session.marked = None
    stopped.clear()
    if talk.current is None:
        turns.append(Turn("medfm", "Open a scan first.", state="failed"))
        yield talk_of(session), gr.skip(), gr.skip()
        return
    loading = parts.models.get(adapter)
    while not loading.done() and not stopped.is_set():
        turns_now = talk_of(session)
        turns_now["turns"].append(Turn("medfm", "The model is still loading ...", state="waiting").to_dict())
        yield turns_now, gr.skip(), gr.skip()
        wait([loading], timeout=1)
    if not loading.done() or loading.exception() is not None:
        turns.append(failed(loading.exception() if loading.done() else None))
        yield talk_of(session), gr.skip(), gr.skip()
        return
    model, prior, before = loading.result(), talk.prior, None
    run = (lambda: respond(talk, asked, model)) if call is None else (lambda: run_tool(talk, call, model))
    ticket = session.ticket = parts.desk.submit(session, run)
    while not ticket.done() and session.talk is talk:
        now = talk_of(session, waiting=parts.desk.ahead(ticket), stopping=stopped.is_set())
        if now != before:
            yield now, gr.skip(), gr.skip()
        before = now
        wait([ticket], timeout=0.1)
    if session.talk is not talk:  # another scan was opened, or the tab was closed
        return
    if (error := ticket.exception()) is not None:
        if turns[-1].role == "medfm":  # what it broke off
            turns.pop()
        turns.append(failed(error))
    if talk.prior is not None and talk.prior is not prior:
        session.views["prior"] = view_of(session, talk.prior, "prior")
    told = drafted(talk) if turns[-1].tool == "report" else gr.skip()
    yield talk_of(session), viewer_of(session), told


def _progress(parts: Parts) -> Callable[[], Iterator[dict[str, str]]]:
    def progress() -> Iterator[dict[str, str]]:
        loading = parts.models.peek(parts.adapter)
        if not loading.done():
            yield {"text": "Loading the model; scans can be opened and viewed meanwhile", "state": "loading"}
            wait([loading])
        error = loading.exception()
        if error is None:
            yield {"text": f"Model {parts.adapter} is ready", "state": "ready"}
        else:
            yield {"text": f"The model could not be loaded: {error}", "state": "failed"}

    return progress


def _leaving(parts: Parts) -> Callable[..., None]:
    def leave(request: gr.Request) -> None:
        parts.sessions.leave(key_of(request))

    return leave


# sessionStorage is the tab's own and outlives a reload; `again`: the page has been in this tab before
_TAB = """() => {
  const again = sessionStorage.getItem("medfm-tab");
  const name = again ?? Array.from(crypto.getRandomValues(new Uint32Array(4))).join("-");
  sessionStorage.setItem("medfm-tab", name);
  return { name, again: again !== null };
}"""


def _returning(parts: Parts) -> Callable[..., Iterator[Shown]]:
    def back(tab: dict[str, Any], request: gr.Request) -> Iterator[Shown]:
        """What was open in this tab before it was loaded again, with the answer that is still being made."""
        name, session = str(tab["name"])[:100], None
        until = time.monotonic() + (_CLOSING if tab["again"] else 0)
        while (session := parts.sessions.back(key_of(request), name)) is None and time.monotonic() < until:
            time.sleep(0.1)  # that the page before is gone is noticed a little later
        if session is None:  # a new tab, or a copy of one that is still open
            parts.session(request).tab = name
            return
        if session.talk.current is None:
            if session.choices:
                yield refusal(session, _CHOOSE, series_of(session))
            return
        yield standing(session)
        if _busy(session) and (session.ticket is None or session.ticket.done()):  # it never came into the line
            session.answering = None
            for now, *_ in reply(parts, session, parts.adapter):
                yield gr.skip(), gr.skip(), now, gr.skip(), gr.skip(), gr.skip()
        talk = session.talk
        while _busy(session) and session.ticket is not None and not session.ticket.done():
            yield gr.skip(), gr.skip(), talk_of(session), gr.skip(), gr.skip(), gr.skip()
            wait([session.ticket], timeout=0.5)
        if session.talk is talk:
            yield standing(session)

    return back


def standing(session: Session) -> Shown:
    """All that is open, as `show` returns it."""
    current, prior = session.talk.current, session.talk.prior
    assert current is not None
    facts = facts_of(current, session.views["current"])
    if prior is not None:
        facts["facts"].append(f"prior: {about_scan(prior)}")
        facts["notes"] += facts_of(prior, session.views["prior"])["notes"]
        if prior.content_hash == current.content_hash:
            facts["notes"].append("The prior is the very scan that is open: both have the same pixels.")
    role = gr.update(visible=True, value="current")
    return facts, viewer_of(session), talk_of(session), series_of(session), role, drafted(session.talk)


def refusal(session: Session, words: str, series: dict[str, Any]) -> Shown:
    """Why nothing was opened, as `show` returns it; what is open stays."""
    before = session.talk.current
    still = [] if before is None else [f"still open: {about_scan(before)}"]
    return {"facts": still, "notes": [], "error": words}, gr.skip(), gr.skip(), series, gr.skip(), gr.skip()


def series_of(session: Session) -> dict[str, Any]:
    """The list of series of what was opened last, the one on the screen chosen; out of sight where there is no list."""
    chosen = (text for text in session.choices if session.series and f"(UID {session.series})" in text)
    return gr.update(choices=session.choices, value=next(chosen, None), visible=bool(session.choices))
