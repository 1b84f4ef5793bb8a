"""What is served beside gradio's own page: the page's scripts, the open scans, and headers that keep both at home."""

from __future__ import annotations

import mimetypes
import re
import secrets
from pathlib import Path
from typing import Any

from chat_sessions import Sessions
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medfm.assistant.drafts import FORMS

COOKIE = "medfm-browser"
_VIEWS = r"(current|prior|mask)-[0-9a-f]+\.(nii|png)"
_STATIC = Path(__file__).parent / "static"
mimetypes.add_type("text/javascript", ".js")  # some systems say text/plain, and browsers refuse such a module

# gradio builds its components with inline scripts and Function(); nothing may come from or go to another host
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' data: blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class InLargePieces(FileResponse):
    """Each piece of a file waits for a thread; on a busy machine the 64 KB that are usual make seconds of a volume."""

    chunk_size = 4 * 2**20


class AtHome:
    """Puts the headers on every answer, and a cookie into each browser: two browsers cannot be taken for each other."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        fresh = None if COOKIE in Request(scope).cookies else secrets.token_urlsafe(24)

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(k.encode(), v.encode()) for k, v in _HEADERS.items()]
                if fresh is not None and scope["path"] == "/":
                    headers.append((b"set-cookie", f"{COOKIE}={fresh}; Path=/; HttpOnly; SameSite=Strict".encode()))
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        await self.app(scope, receive, send_on)


def app_arguments(sessions: Sessions) -> dict[str, Any]:
    """Routes and middleware for `launch(app_kwargs=...)`."""

    def view(request: Request) -> Response:
        """A file that was written for a session's viewer, for its own browser only."""
        session = sessions.find(request.path_params["token"], request.cookies.get(COOKIE, ""))
        name = request.path_params["name"]
        if session is None or (not re.fullmatch(_VIEWS, name) and name not in FORMS.values()):
            return Response(status_code=404)
        path = session.folder / name
        if not path.is_file():
            return Response(status_code=404)
        kind = "image/png" if name.endswith(".png") else "application/octet-stream"
        saved = name if name in FORMS.values() else None  # never shown as a page of ours
        return InLargePieces(path, media_type=kind, filename=saved, headers={"cache-control": "no-store"})

    return {
        "routes": [
            Route("/medfm/view/{token}/{name}", view),
            Mount("/medfm/static", StaticFiles(directory=_STATIC)),
        ],
        "middleware": [Middleware(AtHome)],
    }
