"""A model of brain lesions on painted scans: is there one, on which side, how large; beside trivial answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from medfm.data.brain import Head, read_heads
from medfm.data.lesions import VISIBLE, VOLUMES, contrast
from medfm.data.synthetic import SyntheticScan, synthetic_scan
from medfm.errors import DataError
from medfm.evaluate.results import write_results
from medfm.metrics import bootstrap_interval, dice, platt
from medfm.scan import Mask, Scan

if TYPE_CHECKING:
    from rich.table import Table

    from medfm.finder import LesionFinder

__all__ = ["evaluate_lesions", "fit_score", "lesion_table"]

_SHOWN = 0.5  # the score from which a report states a lesion
_BANDS = {"5 to 10 mm": (0.0, 10.0), "10 to 20 mm": (10.0, 20.0), "20 to 40 mm": (20.0, 41.0)}  # of equal spheres


def evaluate_lesions(
    model: LesionFinder, maps: Sequence[str], *, output: Path, images: int = 30, resamples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Paint `images` scans of each label map, every second one with a lesion of 5 to 40 mm, and look for it.

    A lesion that does not stand out from its surroundings (`contrast` under `VISIBLE`) nobody can tell: it counts under
    "any_contrast" only, and a scan with a visible one is painted beside it. What a person has of his own is painted as
    healthy. Writes `output/cases.jsonl` and `output/metrics.json`, returns the latter. All scans are synthetic: random
    contrast, slices of 1 to 3 mm, wide ventricles and artefacts in some (`medfm.data.synthetic`). Raises what
    `read_heads` does.
    """
    from rich.progress import track

    heads = [head.healthy() for head in read_heads(maps)]
    records = []
    for person, head in enumerate(heads):
        for number in track(range(images), description=head.name, transient=True):
            generator = torch.Generator().manual_seed(1000 * (100 * seed + person) + number)
            for again, made in _painted(head, number % 2, generator):
                looked = _looked_at(model, made)
                records.append({"case": f"{head.name}-{number}{again}", "patient": head.name, **looked})
    metrics = _figures(records, resamples=resamples, seed=seed)
    blank = any(p["score"] >= _SHOWN for p in _parts(model, replace(made.scan, data=np.zeros_like(made.scan.data))))
    metrics["blank_image"] = {"overall": float(np.mean([bool(r["lesion"]) == blank for r in records if _visible(r)]))}
    metrics["model"] = {"name": model.name}
    metrics["data"] = {"name": "painted scans", "people": [h.name for h in heads], "scans": len(records)}
    write_results(output, metrics, records)
    return metrics


def fit_score(cases: Path) -> list[float]:
    """`LesionFinder`'s `score` from the `cases.jsonl` of scans that are not those to be told of: from the likeliest
    part of each, so that a half is where a scan is as likely ill as not, half of them being ill. A part beside the
    lesion of an ill scan is neither and left out.

    Raises DataError: the model suspected nothing in any of them.
    """
    lines = cases.read_text(encoding="utf-8").splitlines()
    scans = [scan for line in lines if (scan := json.loads(line))["parts"] and _visible(scan)]
    first = [(scan["parts"][0], bool(scan["lesion"])) for scan in scans]
    kept = [(part, ill) for part, ill in first if part["right"] == ill]
    if not kept:
        raise DataError(
            f"{cases}: the model found no part that may be a lesion in any of {len(lines)} scans, so there is nothing "
            "to fit a score to. Train it longer."
        )
    return platt(torch.tensor([p["inputs"] for p, _ in kept]), torch.tensor([float(ill) for _, ill in kept]))


def _painted(head: Head, count: int, generator: torch.Generator) -> Iterator[tuple[str, SyntheticScan]]:
    """A scan with `count` lesions, named "", and where its lesion is hidden, one more with a visible one, "-again"."""
    for again in range(20):
        made = synthetic_scan(head, generator=generator, lesions=count, volumes=VOLUMES, distract=0.3)
        seen = not made.lesions or _contrast(made) >= VISIBLE
        if seen or not again:
            yield "-again" if again else "", made
        if seen:
            return


def _looked_at(model: LesionFinder, made: SyntheticScan) -> dict[str, Any]:
    """The truth of a scan, and what was found, the likeliest first."""
    lesion = made.lesions[0] if made.lesions else None
    planted = None
    if lesion is not None:
        planted = {"side": lesion.side, "ml": lesion.volume, "contrast": _contrast(made)}
    return {"lesion": planted, "parts": _parts(model, made.scan, made.lesion_mask.array > 0)}


def _contrast(made: SyntheticScan) -> float:
    image, lesion, brain = made.scan.data[0], made.lesion_mask.array > 0, made.structures.array > 0
    return contrast(torch.from_numpy(image), torch.from_numpy(lesion), torch.from_numpy(brain), made.scan.spacing[::-1])


def _visible(record: dict[str, Any]) -> bool:
    """No lesion, or one that stands out."""
    return not record["lesion"] or record["lesion"]["contrast"] >= VISIBLE


def _parts(model: LesionFinder, scan: Scan, truth: NDArray[np.bool_] | None = None) -> list[dict[str, Any]]:
    from medfm.predict.lesions import finding, parts

    told = []
    for part in parts(model, scan):
        found = finding(model, part, scan)
        (mask,) = (item for item in found.evidence if isinstance(item, Mask))
        inside = mask.array > 0
        right = False if truth is None else bool((inside & truth).any())
        overlap = 0.0 if truth is None else dice(inside, truth)
        told.append(
            {
                "inputs": part.inputs, "score": found.confidence, "side": found.side, "ml": found.ml,
                "right": right, "dice": overlap,
            }
        )  # fmt: skip
    return sorted(told, key=lambda one: -one["score"])


def _figures(records: list[dict[str, Any]], *, resamples: int, seed: int) -> dict[str, Any]:
    def interval(values: Iterator[tuple[dict[str, Any], float]]) -> dict[str, Any]:
        pairs = list(values)
        names = [record["case"] for record, _ in pairs]
        return bootstrap_interval([v for _, v in pairs], names, resamples=resamples, seed=seed).as_dict()

    shown = {r["case"]: [p for p in r["parts"] if p["score"] >= _SHOWN] for r in records}
    any_contrast = [r for r in records if not r["case"].endswith("-again")]
    drawn = [r for r in any_contrast if r["lesion"]]
    records = [r for r in records if _visible(r)]
    ill = [r for r in records if r["lesion"]]
    met = [(r, next((p for p in shown[r["case"]] if p["right"]), None)) for r in ill]
    sizes = {r["case"]: 2 * (3000 * r["lesion"]["ml"] / (4 * np.pi)) ** (1 / 3) for r in ill}
    usual = float(np.median([r["lesion"]["ml"] for r in ill]))
    sides = [r["lesion"]["side"] for r in ill]

    def answers(cases: list[dict[str, Any]]) -> dict[str, Any]:
        told = [r for r in cases if r["lesion"] and shown[r["case"]]]
        return {
            "overall": interval((r, float(bool(shown[r["case"]]) == bool(r["lesion"]))) for r in cases),
            "sensitivity": interval((r, float(bool(shown[r["case"]]))) for r in cases if r["lesion"]),
            "side": interval((r, float(shown[r["case"]][0]["side"] == r["lesion"]["side"])) for r in told),
        }

    return {
        "format": "medfm.lesion-metrics", "version": 2,
        **answers(records),
        "specificity": interval((r, float(not shown[r["case"]])) for r in records if not r["lesion"]),
        "any_contrast": answers(any_contrast),
        "met": interval((r, float(p is not None)) for r, p in met),
        "hidden": interval((r, float(not _visible(r))) for r in drawn),
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

    table = Table("painted scans", "figure", "95 %", "n", "most frequent", "blank image")
    named = {
        "overall": "present or absent, share right", "sensitivity": "told present where it is",
        "specificity": "told absent where none is", "met": "the lesion itself found", "side": "side right where told",
        "hidden": "lesions drawn that do not stand out", "dice": "Dice of those found",
        "volume_error_ml": "ml off, of those found", "false_per_scan": "false ones a scan",
    }  # fmt: skip
    beside = (metrics["most_frequent"], metrics["blank_image"])
    rows = [(words, metrics[key], [other.get(key) for other in beside]) for key, words in named.items()]
    rows += [(f"found, {name}", found, [None, None]) for name, found in metrics["met_by_size"].items()]
    rows += [(f"{named[key]}, any contrast", found, [None, None]) for key, found in metrics["any_contrast"].items()]
    for words, found, others in rows:
        if found["value"] is not None:
            table.add_row(
                words, f"{found['value']:.3f}", f"{found['low']:.3f} to {found['high']:.3f}", str(found["n"]),
                *("" if other is None else f"{other:.3f}" for other in others),
            )  # fmt: skip
    return table
