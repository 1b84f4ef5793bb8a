"""A small report for tests."""

from __future__ import annotations

from medfm.scan import Box, Finding, Measurement, Report, Section, Sentence

__all__ = ["small_report"]


def small_report() -> Report:
    box = Box("effusion", (10.0, 20.0), (60.0, 70.0), score=0.8)
    found = Finding("effusion", "pleura", "left", True, 31.0, 0.8, (box, Measurement("effusion", 31.0, "mm")))
    seen = Sentence("There is a left pleural effusion.", (found,), found.evidence, 0.8)
    return Report(
        Section("Technique", (Sentence("X-ray."),)),
        (Section("Pleura", (seen,)), Section("Heart", (Sentence("The heart may be enlarged.", abstained=True),))),
        Section("Impression", (seen,)),
        model="medfm", adapter="default", version="0.1.0",
    )  # fmt: skip
