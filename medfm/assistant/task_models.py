"""Models trained for one task that a conversation can call: those shipped and the user's own, by what they name."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medfm.segmenter import Segmenter

__all__ = ["segmenter_for", "segmenters", "talkers"]


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


@lru_cache(maxsize=2)
def _loaded(folder: str) -> Segmenter:
    from medfm.segmenter import load_segmenter

    return load_segmenter(folder)


def _folders() -> list[tuple[Path, dict[str, Any]]]:
    from medfm import assets

    found = [*assets.shipped_adapters(), *assets.own_adapters()]
    return [(folder, json.loads((folder / "medfm.json").read_text(encoding="utf-8"))) for folder in found]
