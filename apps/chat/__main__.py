"""The chat page: see a scan, ask about it, click on what an answer rests on. For this machine only, unless told so."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported: no look-up at api.gradio.app
os.environ["GRADIO_RUN_HISTORY"] = "False"

import gradio as gr
from chat_models import Models
from chat_page import DEMOS, build
from chat_parts import Parts
from chat_server import app_arguments
from chat_sessions import Sessions, private_folder

import medfm
from medfm.assistant import Audit, Intake
from medfm.assistant.task_models import talkers
from medfm.errors import MedfmError

SWITCHES: dict[str, Any] = {
    "share": False,
    "run_history": False,  # gradio keeps every run's inputs in the browser otherwise
    "footer_links": [],
    "enable_monitoring": False,
    "ssr_mode": False,
    "max_file_size": "4gb",
    "theme": gr.themes.Default(primary_hue="blue"),
    "css_paths": [Path(__file__).parent / "static" / "page.css"],
}


def launch(
    adapter: str, *, host: str, port: int, auth: list[tuple[str, str]] | None = None, folders: tuple[Path, ...] = (),
    audit: Path | None = None,
) -> None:  # fmt: skip
    """Serve the page until it is interrupted; the model loads once it is up. `port` 0 takes a free one.

    auth: names and passwords. folders: what may be opened by path. audit: file for one line an action.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stopped service cleans up like Ctrl-C does
    with private_folder() as folder:  # uploads and views end with the server
        os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")
        sessions = Sessions(folder / "sessions", audit=Audit(audit))
        names = sorted({adapter, *talkers()})
        parts = Parts(sessions, Models(medfm.load), adapter, names, Intake(tuple(folders)))
        page = build(parts)
        try:
            _, address, _ = page.launch(
                server_name=host, server_port=port or None, prevent_thread_lock=True, quiet=True, auth=auth,
                app_kwargs=app_arguments(sessions), **SWITCHES,
            )  # fmt: skip
        except OSError as error:
            raise MedfmError(f"the page cannot be served on {host}:{port} ({error}); try another --port") from error
        print(f"medfm is at {address} (Ctrl-C stops it)", file=sys.stderr)
        parts.models.get(adapter)
        threading.Thread(target=warm, daemon=True).start()
        threading.Thread(target=sweep, args=(sessions,), daemon=True).start()
        page.block_thread()


def warm() -> None:
    """Load the libraries that read scans, so that the first upload does not wait for them."""
    for name in DEMOS.values():
        medfm.Scan.read(Path(__file__).parent / "demo" / name)


def sweep(sessions: Sessions, *, every: float = 60) -> None:
    """End idle sessions, for as long as the server lives."""
    while True:
        threading.Event().wait(every)
        sessions.sweep()


if __name__ == "__main__":
    launch("default", host="127.0.0.1", port=7860)
