"""Whether a scan is of the kind that a task's model was trained on, as far as its folder says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medfm.image.intensity import coloured
from medfm.scan import Scan

__all__ = ["doubts"]


def doubts(kind: str, settings: Mapping[str, Any], scan: Scan) -> list[str]:
    """Why a model of this kind (`medfm.json`: kind and all else) should not be shown `scan`; empty where nothing is
    known against it."""
    about, found = settings.get("about", {}), []
    colour, units = about.get("colour"), about.get("units")
    if colour is not None and colour != coloured(scan.data):
        found.append(f"trained on {'photographs in colour' if colour else 'grey scans'}; this is none")
    if units is not None and units != scan.units:
        found.append(f"trained on scans in {units}; this is in {scan.units}")
    depth = scan.data.shape[1]
    if kind == "classify" and settings.get("prepare", {}).get("size") and depth > 1:
        found.append(f"trained on single pictures; this is a volume of {depth} slices")
    return found
