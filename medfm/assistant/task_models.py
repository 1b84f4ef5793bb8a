"""Models trained for one task that a conversation can call: those shipped and the user's own, by what they name."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medfm.classifier import Classifier
    from medfm.detector import Detector
    from medfm.segmenter import Segmenter

__all__ = ["classifiers", "detectors_for", "kinds", "segmenter_for", "segmenters", "talkers"]


def segmenters() -> dict[str, list[str]]:
    """Folder of each segmentation model -> the names of what it outlines, its own name among them."""
    return {
        str(folder): [folder.name, *about["labels"]] for folder, about in _folders() if about.get("kind") == "segment"
    }


def talkers() -> list[str]:
    """Names of the adapters that answer questions."""
    return sorted(folder.name for folder, about in _folders() if "language" in about)


def segmenter_for(structure: str) -> Segmenter | None:
    """The model trained to outline `structure`, if there is one."""
    wanted = set(re.findall(r"[a-z]+", structure.lower())) - {"left", "right", "the"}
    for folder, names in segmenters().items():
        if wanted and any(wanted <= set(re.findall(r"[a-z]+", name.lower())) for name in names):
            return _loaded(folder)
    return None


def kinds() -> set[str]:
    """What the models of this machine are for: "segment", "detect", "classify" and so on."""
    return {str(about.get("kind", "answers")) for _, about in _folders()}


def detectors_for(finding: str) -> list[Detector]:
    """The models trained to find `finding`; all of them without a name."""
    wanted = _words(finding)
    folders = [
        str(folder) for folder, about in _folders()
        if about.get("kind") == "detect"
        and (not wanted or any(wanted <= _words(name) for name in (folder.name, *about["labels"])))
    ]  # fmt: skip
    return [_detector(folder) for folder in folders]


def classifiers() -> list[Classifier]:
    """The models that say what a scan shows as a whole."""
    return [_classifier(str(folder)) for folder, about in _folders() if about.get("kind") == "classify"]


def _words(name: str) -> set[str]:
    said = re.findall(r"[a-z]+", name.lower())
    return {word.removesuffix("s") for word in said} - {"left", "right", "the", "all", "any"}


@lru_cache(maxsize=2)
def _detector(folder: str) -> Detector:
    from medfm.detector import load_detector

    return load_detector(folder)


@lru_cache(maxsize=2)
def _classifier(folder: str) -> Classifier:
    from medfm.classifier import load_classifier

    return load_classifier(folder)


@lru_cache(maxsize=2)
def _loaded(folder: str) -> Segmenter:
    from medfm.segmenter import load_segmenter

    return load_segmenter(folder)


def _folders() -> list[tuple[Path, dict[str, Any]]]:
    from medfm import assets

    found = [*assets.shipped_adapters(), *assets.own_adapters()]
    return [(folder, json.loads((folder / "medfm.json").read_text(encoding="utf-8"))) for folder in found]
