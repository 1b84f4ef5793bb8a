"""Models trained for one task that a conversation can call: those shipped and the user's own, by what they name."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medfm.classifier import Classifier
    from medfm.detector import Detector
    from medfm.prompter import Prompter
    from medfm.reconstructor import Reconstructor
    from medfm.scan import Scan
    from medfm.segmenter import Segmenter

__all__ = [
    "classifiers", "denoisers_for", "detectors_for", "kinds", "labels_for", "names_for", "outlined_in", "prompter",
    "segmenters_for", "talkers",
]  # fmt: skip


def talkers() -> list[str]:
    """Names of the adapters that answer questions."""
    return sorted(folder.name for folder, about in _folders() if "language" in about)


def segmenters_for(structure: str, scan: Scan) -> list[Segmenter]:
    """The models trained to outline `structure` in such scans, a name of theirs or of one of their labels."""
    wanted = _words(structure)
    return [
        _segmenter(str(folder)) for folder, about in _folders()
        if about.get("kind") == "segment" and wanted and _reads(about, scan)
        and any(wanted <= _words(name) for name in (folder.name, *about["labels"]))
    ]  # fmt: skip


def outlined_in(scan: Scan) -> list[str]:
    """What models trained for it outline in such scans, without sides; nothing is loaded."""
    labels = [
        name for _, about in _folders() if about.get("kind") == "segment" and _reads(about, scan)
        for name in about["labels"]
    ]  # fmt: skip
    return [name.removeprefix("left ").removeprefix("right ") for name in labels]


def labels_for(structure: str, labels: Sequence[str]) -> list[str]:
    """Those of a model's labels that `structure` means: both sides of a pair unless it says which."""
    wanted, said = _words(structure), set(re.findall(r"[a-z]+", structure.lower()))
    other = {"left": "right", "right": "left"}
    against = {other[side] for side in said & other.keys()}
    return [name for name in labels if wanted <= _words(name) and not against & set(name.lower().split())]


def prompter() -> Prompter | None:
    """The first model that outlines what a box or a point shows, if there is one."""
    folder = next((folder for folder, about in _folders() if about.get("kind") == "prompt"), None)
    return None if folder is None else _prompter(str(folder))


def kinds() -> set[str]:
    """What the models of this machine are for: "segment", "detect", "classify" and so on."""
    return {str(about.get("kind", "answers")) for _, about in _folders()}


def names_for(kind: str, scan: Scan) -> list[str]:
    """Names of the models of one kind that read such scans; nothing is loaded."""
    return [folder.name for folder, about in _folders() if about.get("kind") == kind and _reads(about, scan)]


def detectors_for(finding: str, scan: Scan) -> list[Detector]:
    """The models trained to find `finding` in such scans; all of those without a name."""
    wanted = _words(finding)
    folders = [
        str(folder) for folder, about in _folders()
        if about.get("kind") == "detect" and _reads(about, scan)
        and (not wanted or any(wanted <= _words(name) for name in (folder.name, *about["labels"])))
    ]  # fmt: skip
    return [_detector(folder) for folder in folders]


def classifiers(scan: Scan) -> list[Classifier]:
    """The models that say what such a scan shows as a whole."""
    return [
        _classifier(str(folder)) for folder, about in _folders()
        if about.get("kind") == "classify" and _reads(about, scan)
    ]  # fmt: skip


def denoisers_for(scan: Scan) -> list[Reconstructor]:
    """The models that make a less noisy picture of such scans: CT in HU, or another unit."""
    from medfm.reconstructor import denoisers, load_reconstructor

    return [load_reconstructor(name) for name in denoisers(hounsfield=scan.units == "HU")]


def _reads(about: dict[str, Any], scan: Scan) -> bool:
    from medfm.fitting import doubts

    return not doubts(about.get("kind", "answers"), about, scan)


def _words(name: str) -> set[str]:
    said = {word.removesuffix("s") for word in re.findall(r"[a-z]+", name.lower())}
    return said - {"left", "right", "both", "the", "all", "any", "structure", "part", "region", "volume"}


@lru_cache(maxsize=2)
def _detector(folder: str) -> Detector:
    from medfm.detector import load_detector

    return load_detector(folder)


@lru_cache(maxsize=2)
def _classifier(folder: str) -> Classifier:
    from medfm.classifier import load_classifier

    return load_classifier(folder)


@lru_cache(maxsize=2)
def _segmenter(folder: str) -> Segmenter:
    from medfm.segmenter import load_segmenter

    return load_segmenter(folder)


@lru_cache(maxsize=1)
def _prompter(folder: str) -> Prompter:
    from medfm.prompter import load_prompter

    return load_prompter(folder)


def _folders() -> list[tuple[Path, dict[str, Any]]]:
    from medfm import assets

    found = [*assets.shipped_adapters(), *assets.own_adapters()]
    return [(folder, json.loads((folder / "medfm.json").read_text(encoding="utf-8"))) for folder in found]
