"""Scans in, results out: the only room that reads or writes medical files."""

from medfm.scan.alignment import Alignment
from medfm.scan.rawdata import RawData, Reconstructed
from medfm.scan.report import Finding, Measurement, Report, Section, Sentence
from medfm.scan.results import Answer, Box, Mask, Scores
from medfm.scan.scan import Scan

__all__ = [
    "Alignment",
    "Answer",
    "Box",
    "Finding",
    "Mask",
    "Measurement",
    "RawData",
    "Reconstructed",
    "Report",
    "Scan",
    "Scores",
    "Section",
    "Sentence",
]
