"""Whether a scan is of the kind that a task's model was trained on, as far as its folder says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from medfm.image.intensity import coloured
from medfm.scan import Scan

__all__ = ["doubts", "field_of", "too_wide", "wider"]

_TILES = 24


def doubts(kind: str, settings: Mapping[str, Any], scan: Scan) -> list[str]:
    """Why a model of this kind (`medfm.json`: kind and all else) should not be shown `scan`; empty where nothing is
    known against it."""
    about, found = settings.get("about", {}), []
    colour, units = about.get("colour"), about.get("units")
    if colour is not None and colour != coloured(scan.data):
        found.append(f"trained on {'photographs in colour' if colour else 'grey scans'}; this is none")
    if units is not None and units != scan.units:
        found.append(f"trained on scans in {units}; this is in {scan.units}")
    modalities = about.get("modalities")
    if modalities and scan.modality not in (*modalities, "UNKNOWN"):
        found.append(f"trained on {' and '.join(modalities)}; this is {scan.modality}")
    prepare = settings.get("prepare", {})
    depth = (scan.slices()[0] if prepare.get("displayed") else scan.data).shape[1]
    if kind == "classify" and prepare.get("size") and depth > 1:
        found.append(f"trained on single pictures; this is a volume of {depth} slices")
    return found


def too_wide(kind: str, settings: Mapping[str, Any], scan: Scan) -> list[str]:
    """Why a segmenter of volumes that learned from crops should not be shown a whole scan; else empty."""
    if kind != "segment" or settings.get("atlas") or settings["patch"][0] == 1:
        return []
    field = field_of(settings["patch"], settings["prepare"], scan)
    if not wider(scan.extent, field):
        return []
    small, large = (" x ".join(f"{mm:.0f}" for mm in lengths) for lengths in (field, scan.extent))
    return [f"trained on parts of about {small} mm; this scan is {large} mm. Cut it to the region"]


def field_of(patch: Sequence[int], prepare: Mapping[str, Any], scan: Scan) -> list[float]:
    """mm along D, H, W that a model reads at once of `scan`: all slices where it reads one after the other.

    patch: voxels. prepare: `spacing` and `size` as in `medfm.grid.GridPrepare`.
    """
    own, size = list(scan.spacing[::-1]), prepare.get("size")
    if size:
        own[1:] = [max(scan.extent[1:]) / size] * 2
    voxels = [scan.data.shape[1] if patch[0] == 1 else patch[0], *patch[1:]]
    return [n * (mm or same) for n, mm, same in zip(voxels, prepare.get("spacing") or own, own, strict=True)]


def wider(sides: Sequence[float], field: Sequence[float]) -> bool:
    """A scan of these sides holds more than `_TILES` times the field that a model reads at once, both in mm.

    A model whose tile is a whole organ has seen nothing else; one trained on whole scans reads tiles in the dozens.
    """
    return prod(max(1.0, side / seen) for side, seen in zip(sides, field, strict=True)) > _TILES
