"""Scans in, results out: the only room that reads or writes medical files."""

from medfm.scan.results import Answer, Box, Mask
from medfm.scan.scan import Scan

__all__ = ["Answer", "Box", "Mask", "Scan"]
