"""A model of brain lesions on painted scans: is there one, on which side, how large; beside trivial answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from medfm.data.brain import read_heads
from medfm.data.lesions import VOLUMES
from medfm.data.synthetic import SyntheticScan, synthetic_scan
from medfm.errors import DataError
from medfm.evaluate.results import write_results
from medfm.metrics import bootstrap_interval, dice, platt
from medfm.scan import Mask

if TYPE_CHECKING:
    from rich.table import Table

    from medfm.segmenter import Segmenter

__all__ = ["evaluate_lesions", "fit_score", "lesion_table"]

_SHOWN = 0.5  # the score from which a report states a lesion
_BANDS = {"5 to 10 mm": (0.0, 10.0), "10 to 20 mm": (10.0, 20.0), "20 to 40 mm": (20.0, 41.0)}  # of equal spheres


def evaluate_lesions(
    model: Segmenter, maps: Sequence[str], *, output: Path, images: int = 30, resamples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Paint `images` scans of each label map, every second one with a lesion of 5 to 40 mm, and look for it.

    Writes `output/cases.jsonl` and `output/metrics.json`, returns the latter. All scans are synthetic: random contrast,
    slices of 1 to 3 mm, wide ventricles and artefacts in some (`medfm.data.synthetic`). Raises what `read_heads` does.
    """
    from rich.progress import track

    heads = read_heads(maps)
    records = []
    for person, head in enumerate(heads):
        for number in track(range(images), description=head.name, transient=True):
            generator = torch.Generator().manual_seed(1000 * (100 * seed + person) + number)
            made = synthetic_scan(
                head, generator=generator, lesions=number % 2, volumes=VOLUMES, distract=0.3
            )  # fmt: skip
            records.append({"case": f"{head.name}-{number}", "patient": head.name, **_looked_at(model, made)})
    metrics = _figures(records, resamples=resamples, seed=seed)
    metrics["model"], metrics["data"] = {"name": model.name}, {"people": [h.name for h in heads], "scans": len(records)}
    write_results(output, metrics, records)
    return metrics


def fit_score(cases: Path) -> list[float]:
    """`Segmenter`'s `score` from the `cases.jsonl` of scans that are not those to be told of.

    Raises DataError: the model suspected nothing in any of them.
    """
    lines = cases.read_text(encoding="utf-8").splitlines()
    parts = [part for line in lines for part in json.loads(line)["parts"]]
    if not parts:
        raise DataError(
            f"{cases}: the model found no part that may be a lesion in any of {len(lines)} scans, so there is nothing "
            "to fit a score to. Train it longer."
        )
    return platt(torch.tensor([p["inputs"] for p in parts]), torch.tensor([float(p["right"]) for p in parts]))


def _looked_at(model: Segmenter, made: SyntheticScan) -> dict[str, Any]:
    """The truth of a scan, and what was found, the likeliest first."""
    from medfm.predict.lesions import finding, parts

    truth, told = made.lesion_mask.array > 0, list[dict[str, Any]]()
    for part in parts(model, made.scan):
        found = finding(model, part, made.scan)
        (mask,) = (item for item in found.evidence if isinstance(item, Mask))
        inside = mask.array > 0
        told.append(
            {
                "inputs": part.inputs, "score": found.confidence, "side": found.side, "ml": found.ml,
                "right": bool((inside & truth).any()), "dice": dice(inside, truth),
            }
        )  # fmt: skip
    told.sort(key=lambda one: -one["score"])
    lesion = made.lesions[0] if made.lesions else None
    planted = None if lesion is None else {"side": lesion.side, "ml": lesion.volume}
    return {"lesion": planted, "parts": told}


def _figures(records: list[dict[str, Any]], *, resamples: int, seed: int) -> dict[str, Any]:
    def interval(values: Iterator[tuple[dict[str, Any], float]]) -> dict[str, Any]:
        pairs = list(values)
        names = [record["case"] for record, _ in pairs]
        return bootstrap_interval([v for _, v in pairs], names, resamples=resamples, seed=seed).as_dict()

    shown = {r["case"]: [p for p in r["parts"] if p["score"] >= _SHOWN] for r in records}
    ill = [r for r in records if r["lesion"]]
    met = [(r, next((p for p in shown[r["case"]] if p["right"]), None)) for r in ill]
    sizes = {r["case"]: 2 * (3000 * r["lesion"]["ml"] / (4 * np.pi)) ** (1 / 3) for r in ill}
    usual = float(np.median([r["lesion"]["ml"] for r in ill]))
    sides = [r["lesion"]["side"] for r in ill]
    return {
        "format": "medfm.lesion-metrics", "version": 1,
        "overall": interval((r, float(bool(shown[r["case"]]) == bool(r["lesion"]))) for r in records),
        "sensitivity": interval((r, float(bool(shown[r["case"]]))) for r in ill),
        "specificity": interval((r, float(not shown[r["case"]])) for r in records if not r["lesion"]),
        "met": interval((r, float(p is not None)) for r, p in met),
        "side": interval(
            (r, float(shown[r["case"]][0]["side"] == r["lesion"]["side"])) for r in ill if shown[r["case"]]
        ),
        "dice": interval((r, p["dice"]) for r, p in met if p),
        "volume_error_ml": interval((r, abs(p["ml"] - r["lesion"]["ml"])) for r, p in met if p),
        "false_per_scan": interval((r, float(sum(not p["right"] for p in shown[r["case"]]))) for r in records),
        "met_by_size": {
            name: interval((r, float(p is not None)) for r, p in met if low <= sizes[r["case"]] < high)
            for name, (low, high) in _BANDS.items()
        },
        "most_frequent": {
            "overall": max(len(ill), len(records) - len(ill)) / len(records),
            "side": max(sides.count(side) for side in ("left", "right")) / len(sides),
            "volume_error_ml": interval((r, abs(usual - r["lesion"]["ml"])) for r, p in met if p)["value"],
        },
    }  # fmt: skip


def lesion_table(metrics: dict[str, Any]) -> Table:
    """The figures with their intervals and, beside them, the most frequent answer's."""
    from rich.table import Table

    table = Table("painted scans", "figure", "95 %", "n", "most frequent")
    named = {
        "overall": "present or absent, share right", "sensitivity": "told present where it is",
        "specificity": "told absent where none is", "met": "the lesion itself found", "side": "side right where told",
        "dice": "Dice of those found", "volume_error_ml": "ml off, of those found",
        "false_per_scan": "false ones a scan",
    }  # fmt: skip
    rows = [(words, metrics[key], metrics["most_frequent"].get(key)) for key, words in named.items()]
    rows += [(f"found, {name}", found, None) for name, found in metrics["met_by_size"].items()]
    for words, found, usual in rows:
        if found["value"] is not None:
            table.add_row(
                words, f"{found['value']:.3f}", f"{found['low']:.3f} to {found['high']:.3f}", str(found["n"]),
                "" if usual is None else f"{usual:.3f}",
            )  # fmt: skip
    return table
