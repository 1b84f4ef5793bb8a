"""A report as Markdown: readable as text, and nothing in it is markup but its own headings and lists."""

from __future__ import annotations

import re

from medfm.export.words import TITLES, evidence_line, leaving, note
from medfm.scan import Report

__all__ = ["markdown"]


def markdown(report: Report) -> str:
    """Headings by section, a bullet a sentence, its state, confidence and evidence beneath.

    Declined sentences are struck through and say why; rejected ones are left out.
    """
    lines = ["# Report (draft)" if not report.final else "# Report", "", f"> {_plain(report.watermark)}", ""]
    for name, text in report.context.items():
        lines += [f"**{TITLES.get(name, _plain(name))}:** {_plain(text)}", ""]
    for section, sentences in leaving(report):
        lines += [f"## {_plain(section.title)}", ""]
        for sentence in sentences:
            text = _plain(sentence.text)
            lines.append(f"- {f'~~{text}~~' if sentence.abstained else text} *({_plain(note(sentence))})*")
            lines += [f"  - {_plain(evidence_line(item))}" for item in sentence.evidence]
            if not sentence.evidence and not sentence.abstained and sentence.findings:
                lines.append("  - no place in the scan to show")
        lines.append("")
    return "\n".join([*lines, f"> {_plain(report.watermark)}", ""])


def _plain(text: str) -> str:
    """One line in which no character is Markdown or HTML."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return re.sub(r"([\\`*_{}\[\]<>#|~&!])", r"\\\1", text)
