"""What is on this machine: shipped adapters as their cards describe them, and base weights."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["AdapterCard", "base_weights_here", "own_adapters", "shipped_adapters"]


@dataclass(frozen=True)
class AdapterCard:
    """One folder of adapters/, in words for a table."""

    name: str
    use: str
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
        use=_use(about),
        size=f"{size / 1e6:.1f} MB",
        licence=str(header.get("license", "not said")),
        figure=_figure(folder / "metrics.json"),
    )


def _use(about: dict[str, Any]) -> str:
    """The command that it is for, and what it knows: the labels where they are few, or the language model."""
    kind = about.get("kind", "answers")
    if kind == "answers":  # of a folder where somebody trained on a base of their own, the name only
        return f"ask: {Path(about['language']).name}"
    if kind in ("segment", "detect", "classify"):
        labels = about["labels"]
        return f"{kind}: {', '.join(labels) if len(labels) < 4 else f'{len(labels)} labels'}"
    if kind == "reconstruct":
        return f"reconstruct: {about['physics']['name'].upper()}"
    return {"prompt": "segment: what is marked", "lesions": "report: lesions of the brain"}.get(kind, kind)


def _yaml_header(text: str) -> dict[str, Any]:
    import yaml

    match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    values = yaml.safe_load(match[1]) if match else None
    return values if isinstance(values, dict) else {}


_HEADLINES = {
    "segment": "Dice", "detect": "AP50", "classify": "balanced accuracy", "register": "Dice after",
    "prompt": "Dice of boxes", "vessels": "area under the curve", "lesion": "present or absent",
}  # fmt: skip


def _figure(path: Path) -> str:
    """The headline figure with its interval, from the metrics.json that `medfm evaluate` wrote."""
    if not path.exists():
        return "not measured"
    metrics = json.loads(path.read_text(encoding="utf-8"))
    value, low, high, n = (metrics["overall"][key] for key in ("value", "low", "high", "n"))
    share = f"{100 * value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    kind = metrics.get("format", "").removeprefix("medfm.").removesuffix("-metrics")
    data = metrics.get("data", {})
    if kind == "reconstruct":
        return f"{metrics['psnr']['value']:.1f} dB, direct {metrics['start']['psnr']['value']:.1f}, on {n} slices"
    if kind in _HEADLINES:
        return f"{_HEADLINES[kind]} {share} of {n} on {data.get('name', 'its data')}"
    if "blank_image" not in metrics:
        return f"{share} of {n}"
    return f"{share} of {n} on {data['file']}; blank image {100 * metrics['blank_image']['value']:.1f} %"


def base_weights_here() -> dict[str, bool]:
    """Each name of configs/weights/, and whether it can be used without a network."""
    from medfm.assets import weights_here, weights_names

    return {name: weights_here(name) for name in weights_names()}
