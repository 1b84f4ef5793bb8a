"""Cross-validation in one command: train every fold, measure each on what it never saw, choose what is done after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfm.data.volumes import LabelledScans, Pair, find_pairs, read_labels
from medfm.errors import ConfigError
from medfm.evaluate.overlap import agreement, figures
from medfm.evaluate.segment import Record, written
from medfm.predict import segment
from medfm.segmenter import Segmenter, join, keep_largest, load_segmenter
from medfm.train.loop import train

__all__ = ["cross_validate", "folds_of"]


def folds_of(pairs: list[Pair], count: int, *, seed: int) -> list[list[str]]:
    """The patients of each fold, drawn with `seed`. Raises ConfigError for fewer than two folds, or patients."""
    patients = sorted({pair.patient for pair in pairs})
    if not 2 <= count <= len(patients):
        raise ConfigError(f"found {count} folds of {len(patients)} patients; expected two folds to one a patient")
    order = np.random.default_rng(seed).permutation(len(patients)).tolist()
    return [sorted(patients[i] for i in order[first::count]) for first in range(count)]


def cross_validate(
    recipe: dict[str, Any], *, output: Path, folds: int = 5, resume: bool = False, tolerance: float = 1.0
) -> dict[str, Any]:
    """Train `recipe` once a fold, without that fold's patients; leave the ensemble of all in `output`.

    Every scan is segmented by the one network that never saw its patient; `output/metrics.json` and `cases.jsonl` are
    about these. A label keeps its largest part only, if that raises its mean Dice over them (nnU-Net's rule): the
    figures with it stand under "chosen", and are a little too good, since the choice was made on the same scans.

    `output` itself is the first fold's model, with the other folds as its `members` (`medfm.segmenter`). resume: folds
    that are complete are kept, one that was cut short goes on.

    Raises ConfigError: a recipe that trains no segmenter of a labelled data set, or too many folds.
    """
    data = recipe["data"]
    if recipe["objective"].get("name") != "supervised" or not data.get("train"):
        raise ConfigError("folds are of a recipe with the objective 'supervised' and data.train")
    found = find_pairs(data["train"], labels=data.get("labels"))
    plain: list[Record] = []
    largest: list[Record] = []
    for number, held in enumerate(folds_of(found.pairs, folds, seed=data.get("split", 0))):
        folder = output / f"fold{number}"
        if not (folder / "complete").exists():
            own = {key: value for key, value in data.items() if key not in ("hold", "validate", "split")}
            train({**recipe, "data": {**own, "hold": held}}, output=folder, resume=resume)
            (folder / "complete").touch()
        model = load_segmenter(folder)
        for pair in (p for p in found.pairs if p.patient in set(held)):
            one, other = _both(model, pair, found, tolerance)
            plain.append(one)
            largest.append(other)
    chosen = [name for name in found.labels.values() if _dice(largest, name) > _dice(plain, name)]
    records = [
        {**p, "classes": {name: (q if name in chosen else p)["classes"][name] for name in p["classes"]}}
        for p, q in zip(plain, largest, strict=True)
    ]
    join([output / f"fold{number}" for number in range(folds)], output, {"largest": chosen}, folds=folds)
    about = {"name": output.name, "folds": folds}
    after = figures(records, list(found.labels.values()), resamples=2000, seed=0)
    metrics = written(plain, found, about, output, 2000, 0, tolerance)
    metrics["chosen"] = {"largest": chosen, "overall": after["overall"]}
    (output / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    return metrics


def _both(model: Segmenter, pair: Pair, data: LabelledScans, tolerance: float) -> tuple[Record, Record]:
    scan, truth = read_labels(pair, data.labels)
    d, h, w = scan.spacing[::-1]
    found: NDArray[np.uint8] = segment(model, scan).array.astype(np.uint8)
    names = list(data.labels.values())
    rows = []
    for labels in (found, keep_largest(found, range(1, len(names) + 1))):
        classes = agreement(labels, truth, spacing=(d, h, w), labels=names, tolerance=tolerance)
        rows.append({"case": pair.name, "patient": pair.patient, "classes": classes})
    return rows[0], rows[1]


def _dice(records: list[Record], name: str) -> float:
    values = [record["classes"][name]["dice"] for record in records]
    return float(np.nanmean(values)) if not np.isnan(values).all() else 0.0
