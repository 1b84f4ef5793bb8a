"""Records of an evaluation to figures with intervals, and the table that shows them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from medfm.metrics import bootstrap_interval, expected_calibration_error

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["score", "table"]

_BREAKDOWNS = ("content_type", "modality")
Record = dict[str, Any]


def score(records: Sequence[Record], *, resamples: int, seed: int) -> dict[str, Any]:
    """The figures of metrics.json: each a mean, its 95 % bootstrap interval by image, and its number of questions."""

    def figure(chosen: Sequence[Record], key: str, minus: str | None = None) -> dict[str, Any]:
        values = [record[key] - (record[minus] if minus else 0.0) for record in chosen]
        images = [record["image"] for record in chosen]
        return bootstrap_interval(values, images, resamples=resamples, seed=seed).as_dict()

    return {
        "format": "medfm.vqa-metrics",
        "version": 1,
        "overall": figure(records, "correct"),
        "closed": figure([r for r in records if r["answer_type"] == "CLOSED"], "correct"),
        "open": figure([r for r in records if r["answer_type"] == "OPEN"], "correct"),
        "token_f1": figure(records, "token_f1"),
        "blank_image": figure(records, "blank_correct"),
        "most_frequent": figure(records, "most_frequent_correct"),
        "gain_over_blank": figure(records, "correct", minus="blank_correct"),
        "calibration": _calibration(records),
        "abstained": {
            "n": sum(r["abstained"] for r in records),
            "when_answered": figure([r for r in records if not r["abstained"]], "correct"),
        },
        "by": {key: groups for key in _BREAKDOWNS if (groups := _by(records, key, figure))},
        "unreadable": {
            "questions": sum(r["error"] is not None for r in records),
            "images": {r["image"]: r["error"] for r in records if r["error"] is not None},
        },
        "bootstrap": {"resamples": resamples, "seed": seed, "level": 0.95, "cluster": "image"},
    }


def _calibration(records: Sequence[Record]) -> dict[str, Any]:
    known = [r for r in records if r["confidence"] is not None]
    if not known:
        return {"ece": None, "n": 0}
    confidence = [min(1.0, r["confidence"]) for r in known]  # exp(log-probability) can round to just above 1
    ece = expected_calibration_error(confidence, [r["correct"] for r in known])
    mean = sum(confidence) / len(known)
    return {"ece": round(ece, 6), "mean_confidence": round(mean, 6), "bins": 15, "n": len(known)}


def _by(records: Sequence[Record], key: str, figure: Any) -> dict[str, Any]:
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if key in record:
            groups[str(record[key])].append(record)
    return {name: figure(groups[name], "correct") for name in sorted(groups)}


def table(metrics: dict[str, Any]) -> Table:
    """The figures as a table for a terminal: percent, interval, number of questions."""
    from rich.table import Table

    shown = Table(title=f"{metrics['model']['name']} on {metrics['data']['file']}", title_justify="left")
    shown.add_column("")
    for heading in ("exact match %", "95 % interval", "questions"):
        shown.add_column(heading, justify="right")
    lines = [
        ("overall", metrics["overall"]),
        ("  closed", metrics["closed"]),
        ("  open", metrics["open"]),
        ("same model, blank image", metrics["blank_image"]),
        ("most frequent answer", metrics["most_frequent"]),
        ("gain over the blank image", metrics["gain_over_blank"]),
        ("token F1", metrics["token_f1"]),
    ]
    for key, groups in metrics["by"].items():
        lines += [(f"{key}: {name}", group) for name, group in groups.items()]
    for label, values in lines:
        if values["n"]:
            interval = f"{100 * values['low']:.1f} to {100 * values['high']:.1f}"
            shown.add_row(label, f"{100 * values['value']:.1f}", interval, str(values["n"]))
    if metrics["calibration"]["n"]:
        shown.add_row(
            "calibration error (ECE)",
            f"{100 * metrics['calibration']['ece']:.1f}",
            "",
            str(metrics["calibration"]["n"]),
        )
    if metrics["unreadable"]["questions"]:
        shown.add_row("unreadable images, counted as wrong", "", "", str(metrics["unreadable"]["questions"]))
    return shown
