"""A conversation about scans: what is open, what was asked, which tool answers; the page and MCP sit on it."""

from medfm.assistant.audit import Audit
from medfm.assistant.conversation import Conversation, Turn
from medfm.assistant.intake import Intake
from medfm.assistant.responding import respond, run_tool
from medfm.assistant.routing import Call, route
from medfm.assistant.tools import TOOLS, Tool, available

__all__ = [
    "TOOLS", "Audit", "Call", "Conversation", "Intake", "Tool", "Turn", "available", "respond", "route", "run_tool",
]  # fmt: skip
