"""What is on this machine: shipped adapters as their cards describe them, and base weights."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["AdapterCard", "base_weights_here", "own_adapters", "shipped_adapters"]


@dataclass(frozen=True)
class AdapterCard:
    """One folder of adapters/, in words for a table."""

    name: str
    base: str
    size: str
    licence: str
    figure: str


def shipped_adapters() -> list[AdapterCard]:
    """Every folder of adapters/ with a medfm.json, by name; its README.md is a card with Hugging Face's YAML header."""
    from medfm import assets

    return [_card(folder) for folder in assets.shipped_adapters()]


def own_adapters() -> list[AdapterCard]:
    """Those that the user fine-tuned, by name."""
    from medfm import assets

    return [_card(folder) for folder in assets.own_adapters()]


def _card(folder: Path) -> AdapterCard:
    card = folder / "README.md"
    header = _yaml_header(card.read_text(encoding="utf-8")) if card.exists() else {}
    about = json.loads((folder / "medfm.json").read_text(encoding="utf-8"))
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return AdapterCard(
        name=folder.name,
        base=_base(about),
        size=f"{size / 1e6:.1f} MB",
        licence=str(header.get("license", "not said")),
        figure=_figure(folder / "metrics.json"),
    )


def _base(about: dict[str, Any]) -> str:
    """The language model, or what else the folder holds; a folder where somebody trained on a base of their own."""
    if about.get("kind") == "segment":
        return f"segments {len(about['labels'])} structures"
    return Path(about["language"]).name


def _yaml_header(text: str) -> dict[str, Any]:
    import yaml

    match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    values = yaml.safe_load(match[1]) if match else None
    return values if isinstance(values, dict) else {}


def _figure(path: Path) -> str:
    """Overall exact match with its interval, from the metrics.json that `medfm evaluate` wrote."""
    if not path.exists():
        return "not measured"
    metrics = json.loads(path.read_text(encoding="utf-8"))
    value, low, high, n = (metrics["overall"][key] for key in ("value", "low", "high", "n"))
    if metrics.get("format") == "medfm.segment-metrics":
        return (
            f"Dice {100 * value:.1f} % ({100 * low:.1f} to {100 * high:.1f}) on {n} scans of {metrics['data']['name']}"
        )
    figure = f"{100 * value:.1f} % ({100 * low:.1f} to {100 * high:.1f}) of {n} on {metrics['data']['file']}"
    return f"{figure}; blank image {100 * metrics['blank_image']['value']:.1f} %"


def base_weights_here() -> dict[str, bool]:
    """Each name of configs/weights/, and whether it can be used without a network."""
    from medfm.assets import cache_dir, weights_names

    def here(name: str) -> bool:
        given = os.environ.get("MEDFM_WEIGHTS_" + re.sub(r"\W", "_", name.upper()))
        return bool(given and Path(given).expanduser().exists()) or any((cache_dir() / name).glob("*.safetensors"))

    return {name: here(name) for name in weights_names()}
