"""A prompted model on label maps: Dice for a box and for a click of every thing, beside the filled box."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medfm.data.patients import of_held_patients
from medfm.data.things import clicked, filled, labels_within
from medfm.data.volumes import Pair, find_pairs, read_labels
from medfm.errors import DataError
from medfm.evaluate.results import write_results
from medfm.grid import resample
from medfm.metrics import bootstrap_interval, dice

if TYPE_CHECKING:
    from rich.table import Table

    from medfm.prompter import Drawn, Prompter

__all__ = ["evaluate_prompts", "prompt_table"]

Record = dict[str, Any]
_MEASURES = ("box", "loose_box", "click", "filled_box")
_TIMED = ("box", "click")
_LOOSE = 0.05  # of its size, how far each side of the loose box may be off


def evaluate_prompts(
    model: Prompter, data: Path, *, output: Path, held_out: bool = False, labels: Mapping[int, str] | None = None,
    least: int = 16, limit: int | None = None, resamples: int = 2000, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Mark every thing of a data set; write `output/cases.jsonl` and `output/metrics.json`, return the metrics.

    A thing is all of one label in one slice, from `least` pixels on. It is marked by the box around it, by a loose box
    whose sides are off by up to 5 %, and by one click on its pixel farthest from any edge; `filled_box` is the Dice of
    the box itself, all of it taken. `overall` is the box's Dice, `gain` how far it is above the filled box.

    data: see `medfm.data.volumes.find_pairs`. labels: value -> name; default: the data set's, else by number.
    held_out: only patients that the model's folder lists as held out of its training. limit: scans.

    Raises:
        DataError: no such data, nothing of `least` pixels in it, or nobody was held out.
    """
    found = find_pairs(data, labels=labels, by_number=True)
    pairs = of_held_patients(found.pairs, model.about)[0] if held_out else found.pairs
    records = list(_marked(model, pairs[:limit], found.labels, least, np.random.default_rng(seed)))
    if not records:
        raise DataError(f"{found.name}: no label has {least} pixels in any slice; give --least")

    def figure(values: list[float], rows: list[Record]) -> dict[str, Any]:
        return bootstrap_interval(values, [r["patient"] for r in rows], resamples=resamples, seed=seed).as_dict()

    def dices(rows: list[Record]) -> dict[str, Any]:
        return {key: figure([r[key] for r in rows], rows) for key in _MEASURES}

    over, seen = dices(records), {r["label"] for r in records}
    cases = len({r["case"] for r in records})
    metrics: dict[str, Any] = {
        "format": "medfm.prompt-metrics",
        "version": 1,
        "overall": over.pop("box"),
        **over,
        "gain": figure([r["box"] - r["filled_box"] for r in records], records),
        "classes": {n: dices([r for r in records if r["label"] == n]) for n in found.labels.values() if n in seen},
        "seconds": {
            key: round(float(np.median([r[f"seconds_{key}"] for r in records])), 3) for key in ("box", "click")
        },
        "model": {"name": model.name, "held_out_only": held_out},
        "data": {"name": found.name, "cases": cases, "things": len(records), "least": least},
        "bootstrap": {"resamples": resamples, "seed": seed, "level": 0.95, "cluster": "patient"},
    }
    write_results(output, metrics, records)
    return metrics


def prompt_table(metrics: dict[str, Any]) -> Table:
    """The figures as a table for a terminal: Dice in percent."""
    from rich.table import Table

    shown = Table(title=f"{metrics['model']['name']} on {metrics['data']['name']}, Dice in %", title_justify="left")
    shown.add_column("")
    for heading in ("box", "box off by 5 %", "click", "filled box", "things"):
        shown.add_column(heading, justify="right")

    def cell(values: dict[str, Any]) -> str:
        value, low, high = (100 * values[key] for key in ("value", "low", "high"))
        return f"{value:.1f} ({low:.1f} to {high:.1f})"

    for name, row in {"all": {**metrics, "box": metrics["overall"]}, **metrics["classes"]}.items():
        shown.add_row(name, *(cell(row[key]) for key in _MEASURES), str(row["box"]["n"]))
    seconds = metrics["seconds"]
    shown.add_row("gain of the box", cell(metrics["gain"]))
    shown.add_row("seconds", f"{seconds['box']:.2f}", "", f"{seconds['click']:.2f}")
    return shown


def _marked(
    model: Prompter, pairs: list[Pair], labels: Mapping[int, str], least: int, random: np.random.Generator
) -> Iterator[Record]:
    from rich.progress import track

    from medfm.prompter import box_of

    names = list(labels.values())
    for pair in track(pairs, description="marking", transient=True):
        scan, truth = read_labels(pair, labels)
        grid = model.preparation(scan)
        for index, drawn in enumerate(truth):
            for value in labels_within(drawn, least=least):
                mask = drawn == value
                around = box_of(mask)
                assert around is not None
                left, top, right, bottom = around
                loose = np.array(around) + random.uniform(-_LOOSE, _LOOSE, 4) * np.tile((right - left, bottom - top), 2)
                start = time.perf_counter()
                by_box = model.draw(grid, index, box=around)
                middle = time.perf_counter()
                by_click = model.draw(grid, index, points=[(*clicked(mask), 1.0)])
                end = time.perf_counter()
                by_loose = model.draw(grid, index, box=loose.tolist())
                ways = {"box": by_box, "loose_box": by_loose, "click": by_click}
                yield {
                    "case": pair.name, "patient": pair.patient, "slice": index, "label": names[value - 1],
                    "pixels": int(mask.sum()),
                    **{way: dice(_on_scan(found, mask.shape), mask) for way, found in ways.items()},
                    "filled_box": dice(filled(mask), mask), "expected": by_box.quality,
                    "seconds_box": middle - start, "seconds_click": end - middle,
                }  # fmt: skip


def _on_scan(found: Drawn, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    probability = resample(found.probability[None, None], (1, shape[0], shape[1]))[0, 0]
    inside: NDArray[np.bool_] = probability > 0.5
    return inside
