"""What every handler of the page gets: sessions, models, the way in; and which session a request belongs to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from chat_models import Models
from chat_server import COOKIE
from chat_sessions import Desk, Key, Session, Sessions

from medfm.assistant import Intake


@dataclass
class Parts:
    """What the page needs: sessions, models, the way in, the line in front of the model."""

    sessions: Sessions
    models: Models
    adapter: str = "default"
    adapters: list[str] = field(default_factory=list)
    intake: Intake = field(default_factory=Intake)
    desk: Desk = field(default_factory=Desk)

    def session(self, request: gr.Request) -> Session:
        """The session of the tab that sent a request."""
        session = self.sessions.get(key_of(request))
        session.talk.user = request.username
        return session


def key_of(request: gr.Request) -> Key:
    """Browser and tab. The tab's number is gradio's and not made to be a secret; the cookie is ours and is."""
    cookies: Any = request.cookies
    return str(dict(cookies).get(COOKIE, "")), str(request.session_hash)
