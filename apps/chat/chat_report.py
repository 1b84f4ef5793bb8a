"""The report of the page: drafted behind the line in front of the model, decided on by sentence, written to files."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import gradio as gr
from chat_parts import Parts
from chat_sessions import Session
from chat_views import failed, talk_of, viewer_of

from medfm.assistant import Call, run_tool
from medfm.assistant.drafts import decide, drafted, written
from medfm.assistant.intake import sources
from medfm.errors import MedfmError

LONGEST = {"indication": 1000, "history": 4000, "labs": 4000, "prior": 20_000}  # characters


def report_part(parts: Parts, drawn: Any, adapter: gr.Dropdown, talk: gr.HTML, viewer: gr.HTML) -> gr.HTML:
    """The tab Report and its events; returns what shows the draft."""
    with gr.Row(elem_id="mf-draft"):
        indication = gr.Textbox(
            placeholder="Why was it made? (optional)",
            show_label=False,
            container=False,
            max_length=LONGEST["indication"],
            scale=5,
        )
        button = gr.Button("Draft", variant="primary", scale=1, min_width=80, elem_id="mf-draft-button")
    with gr.Accordion("History, laboratory, earlier report (optional)", open=False, elem_id="mf-context"):
        more_context = [
            gr.Textbox(placeholder=text, show_label=False, container=False, lines=1, max_lines=4, max_length=limit)
            for text, limit in (
                ("What is known of the patient?", LONGEST["history"]), ("Laboratory values", LONGEST["labs"]),
                ("Text of an earlier report, to say what changed. Counts before a prior scan.", LONGEST["prior"]),
            )
        ]  # fmt: skip
    shown: gr.HTML = drawn(
        "report.js", events="'decide' 'take'", value={"sections": [], "open": False}, elem_id="mf-report"
    )
    quick: dict[str, Any] = {"api_name": False, "queue": False, "show_progress": "hidden"}

    def draft(
        name: str, why: str, history: str | None, labs: str | None, prior: str | None, request: gr.Request
    ) -> Iterator[tuple[Any, Any, Any]]:
        session = parts.session(request)
        told = {"indication": why, "history": history, "labs": labs, "prior": prior}  # None: never touched
        told = {name: (text or "")[: LONGEST[name]] for name, text in told.items()}
        for now in drafting(parts, session, name, told):
            yield now, gr.skip(), gr.skip()
        yield gr.skip(), talk_of(session), viewer_of(session)

    def on_decide(request: gr.Request, event: gr.EventData) -> dict[str, Any]:
        session = parts.session(request)

        def change() -> None:
            decide(session.talk, int(event.section), int(event.sentence), event.decision, str(event.text)[:2000])

        return attempt(session, change)

    def on_take(request: gr.Request, event: gr.EventData) -> dict[str, Any]:
        session = parts.session(request)
        file: dict[str, str] = {}

        def write() -> None:
            name = write_file(session, str(event.form))
            file.update(name=name, url=f"medfm/view/{session.token}/{name}")

        return {**attempt(session, write), "file": file or None}

    more: dict[str, Any] = {"api_name": False, "concurrency_limit": None, "show_progress": "hidden"}
    given = [adapter, indication, *more_context]
    button.click(draft, given, [shown, talk, viewer], **{**more, "api_name": "draft"})
    indication.submit(draft, given, [shown, talk, viewer], **more)
    shown.decide(on_decide, None, shown, **quick)
    shown.take(on_take, None, shown, **{**more, "queue": True})
    return shown


def drafting(parts: Parts, session: Session, adapter: str, told: dict[str, str | None]) -> Iterator[dict[str, Any]]:
    """The draft, with a word on what is being waited for. told: what the tool `report` may know beside the scan."""
    talk = session.talk
    if talk.current is None:
        yield {**drafted(talk), "error": "Open a scan first."}
        return
    loading = parts.models.get(adapter)
    while not loading.done():
        yield {"busy": "The model is still loading ..."}
        wait([loading], timeout=1)
    if (error := loading.exception()) is not None:
        yield {**drafted(talk), "error": str(error)}
        return
    if talk.turns and talk.turns[-1].state == "running":
        yield {**drafted(talk), "error": "A question is being answered; draft when it is done."}
        return
    call = Call("report", {name: words for name, text in told.items() if (words := (text or "").strip())})
    ticket = session.ticket = parts.desk.submit(session, lambda: run_tool(talk, call, loading.result()))
    before = None
    while not ticket.done() and session.talk is talk:
        ahead = parts.desk.ahead(ticket)
        now = f"In line: {ahead} requests of others first." if ahead else "Reading the scan and drafting ..."
        if now != before:
            yield {"busy": now}
        before = now
        wait([ticket], timeout=0.1)
    if session.talk is not talk:  # another scan was opened: its report, not this one
        yield drafted(session.talk)
        return
    turn = talk.turns[-1] if talk.turns else None
    refused = turn.text if turn is not None and turn.state == "failed" else None
    if (unforeseen := ticket.exception()) is not None:
        refused = failed(unforeseen).text
    yield {**drafted(talk), "error": refused}


def attempt(session: Session, act: Any) -> dict[str, Any]:
    """The draft after `act`, or with what was wrong with it."""
    try:
        act()
    except MedfmError as error:
        return {**drafted(session.talk), "error": str(error)}
    return drafted(session.talk)


def write_file(session: Session, form: str) -> str:
    """Write the report or masks where the session's browser can fetch it; returns the name."""
    source: list[Path] = []
    if form.startswith("DICOM"):
        files, uid = session.origin
        source = sources(files, session.folder / "source", uid=uid)
    return written(session.talk, form, session.folder, source=source).name
