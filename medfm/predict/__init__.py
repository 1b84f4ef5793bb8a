"""The verbs: what a person wants of a scan, and what comes back. One module a verb."""

from medfm.predict.answer import ask, ask_many, stream
from medfm.predict.report import report
from medfm.predict.segment import segment, volumes

__all__ = ["ask", "ask_many", "report", "segment", "stream", "volumes"]
