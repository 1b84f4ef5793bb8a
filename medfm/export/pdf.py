"""A report as PDF: the sentences with what they rest on, and key images with boxes and outlines drawn in."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfm.export.words import TITLES, evidence_line, leaving, note
from medfm.image.marked import marked_picture, outlined_picture
from medfm.language.vocabulary import LESIONS
from medfm.scan import Box, Mask, Report, Scan

__all__ = ["key_evidence", "pdf"]

_GREY, _BLACK, _AMBER = (100, 100, 100), (0, 0, 0), (176, 96, 0)
_KEY_IMAGES = 4


def pdf(report: Report, *, scan: Scan | None = None) -> bytes:
    """A4, the watermark on every page, up to four key images of `scan`.

    The built-in fonts know Latin-1; other characters are shown as "?".
    """
    page = _sheet(report.watermark)
    page.set_font("Helvetica", "B", 16)
    _line(page, 9, "Report" if report.final else "Report (draft)")
    page.set_font("Helvetica", "", 10)
    for name, text in report.context.items():
        _line(page, 5, f"{TITLES.get(name, name)}: {text}")
    for section, sentences in leaving(report):
        page.ln(2)
        page.set_font("Helvetica", "B", 12)
        _line(page, 7, section.title)
        for sentence in sentences:
            page.set_text_color(*(_AMBER if sentence.abstained else _BLACK))
            page.set_font("Helvetica", "I" if sentence.abstained else "", 10.5)
            _line(page, 5.5, sentence.text)
            page.set_text_color(*_GREY)
            page.set_font("Helvetica", "", 8)
            for line in (note(sentence), *(evidence_line(item) for item in sentence.evidence)):
                _line(page, 4, line, indent=5)
            page.set_text_color(*_BLACK)
    if scan is not None:
        _key_images(page, report, scan)
    return bytes(page.output())


def key_evidence(report: Report) -> list[Box | Mask]:
    """Boxes and masks worth a picture: of lesions first, each structure once, at most four."""
    kept: dict[str, Box | Mask] = {}
    stated = [s for _, sentences in leaving(report) for s in sentences]
    for sentence in sorted(stated, key=lambda s: (s.abstained, not any(f.finding in LESIONS for f in s.findings))):
        for item in sentence.evidence:
            if isinstance(item, Box):
                kept.setdefault(item.label, item)
            elif isinstance(item, Mask) and item.array.any():
                kept.setdefault(", ".join(item.labels.values()), item)
    return list(kept.values())[:_KEY_IMAGES]


def _sheet(watermark: str) -> Any:
    from fpdf import FPDF

    class Sheet(FPDF):  # fpdf calls header and footer of a subclass
        def header(self) -> None:
            self.set_font("Helvetica", "B", 8)
            self.set_text_color(*_AMBER)
            self.cell(0, 5, _latin(watermark), align="C", new_x="LMARGIN", new_y="NEXT")
            self.set_text_color(*_BLACK)

        def footer(self) -> None:
            self.set_y(-12)
            self.set_font("Helvetica", "", 8)
            self.set_text_color(*_GREY)
            self.cell(0, 5, f"{self.page_no()} / {{nb}}", align="C")

    sheet = Sheet(format="A4")
    sheet.set_title("Report (draft)")
    sheet.set_auto_page_break(True, margin=15)
    sheet.add_page()
    return sheet


def _line(page: Any, height: float, text: str, *, indent: float = 0) -> None:
    page.set_x(page.l_margin + indent)
    page.multi_cell(0, height, _latin(text), new_x="LMARGIN", new_y="NEXT")


def _latin(text: str) -> str:
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return plain.encode("latin-1", "replace").decode("latin-1")


def _key_images(page: Any, report: Report, scan: Scan) -> None:
    """Two a row, each with its box or outlines and a line beneath."""
    from PIL import Image

    width, gap, page_end = 85.0, 8.0, page.h - 18
    pictures = [_drawn(scan, item) for item in key_evidence(report)]
    for start in range(0, len(pictures), 2):
        row = pictures[start : start + 2]
        height = max(width * picture.shape[0] / picture.shape[1] for picture, _ in row)
        title = 13 if start == 0 else 0
        if page.get_y() + title + height + 8 > page_end:
            page.add_page()
        if title:
            page.ln(3)
            page.set_font("Helvetica", "B", 12)
            _line(page, 7, "Key images")
        top = page.get_y()
        for number, (picture, line) in enumerate(row):
            x = page.l_margin + number * (width + gap)
            page.image(Image.fromarray(picture), x=x, y=top, w=width)
            page.set_font("Helvetica", "", 8)
            page.set_xy(x, top + height + 1)
            page.multi_cell(width, 4, _latin(line))
        page.set_xy(page.l_margin, top + height + 11)


def _drawn(scan: Scan, item: Box | Mask) -> tuple[NDArray[np.uint8], str]:
    """The slice in which it is clearest, with the box or the outlines in it, and what to write beneath."""
    if isinstance(item, Mask):
        picture, index = outlined_picture(scan, item)
        names = list(item.labels.values())
        told = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        return picture, f"{told}: slice {index + 1}" if scan.data.shape[1] > 1 else told
    return marked_picture(scan, [item], index=item.slice or 0), evidence_line(item)
