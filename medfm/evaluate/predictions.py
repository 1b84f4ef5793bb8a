"""What another program found, measured as our models are: its boxes, its probabilities, on the same data."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medfm.data.boxes import BoxedScan, find_boxes
from medfm.data.labels import find_labels
from medfm.errors import DataError
from medfm.evaluate.classify import label_figures
from medfm.evaluate.detect import box_figures, on_voxels
from medfm.evaluate.results import write_results
from medfm.scan import Box, Scan

__all__ = ["evaluate_predicted_boxes", "evaluate_predicted_labels"]


def evaluate_predicted_boxes(
    prediction: Path, data: Path, *, output: Path, least: int = 1, limit: int | None = None, resamples: int = 200,
    seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """The figures of `evaluate_detect` for boxes in a file; write `output/cases.jsonl` and `metrics.json`.

    prediction: JSON lines of {"case", "boxes": [{"label", "low", "high", "score"}]}, as `evaluate_detect` leaves them
    in its own `cases.jsonl`: corners in pixels of a picture, in RAS mm of a patient; "xywh" in their place for a
    picture. A case without a line counts as one where nothing was found. All classes of the data with `least` boxes
    count, and no others.

    Raises DataError: a line that is no such thing, of a case that the data do not have, or a box without a score.
    """
    everything = find_boxes(data)
    names = [name for name, count in everything.counts.items() if count >= least]
    rows = _by_case(prediction, [scan.name for scan in everything.scans])
    found, drawn, kept = [], [], everything.scans[:limit]
    for one in kept:
        scan = Scan.read(one.image)
        boxes = [box for box in _boxes(prediction, one, rows.get(one.name, {"boxes": []})) if box.label in names]
        edges, labels = on_voxels(scan, boxes, names)
        found.append((edges, torch.tensor([box.score for box in boxes]), labels))
        drawn.append(on_voxels(scan, [box for box in one.boxes if box.label in names], names))
    patients = [one.patient for one in kept]
    metrics = box_figures(found, drawn, names, patients, resamples=resamples, seed=seed)
    metrics["model"] = {"name": prediction.name}
    metrics["data"] = {"name": everything.name, "cases": len(kept), "least": least}
    metrics["data"]["cases without a line"] = sum(one.name not in rows for one in kept)
    write_results(output, metrics, [{"patient": one.patient, "case": one.name, **rows.get(one.name, {"boxes": []})}
                                    for one in kept])  # fmt: skip
    return metrics


def _boxes(prediction: Path, one: BoxedScan, row: dict[str, Any]) -> list[Box]:
    try:
        return [_box(values) for values in row["boxes"]]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{prediction.name}, case {one.name}: expected boxes of label, score and low with high, or xywh ({error!r})"
        ) from error


def _box(values: dict[str, Any]) -> Box:
    if "xywh" in values:
        x, y, width, height = map(float, values["xywh"])
        return Box(values["label"], (x, y), (x + width, y + height), score=float(values["score"]))
    low, high = (tuple(map(float, values[end])) for end in ("low", "high"))
    return Box(values["label"], low, high, score=float(values["score"]))


def evaluate_predicted_labels(
    prediction: Path, data: Path, *, output: Path, limit: int | None = None, resamples: int = 500, seed: int = 0
) -> dict[str, Any]:
    """The figures of `evaluate_classify` for probabilities in a file; write `output/cases.jsonl` and `metrics.json`.

    prediction: a CSV with a column `case` and one for each label of the data, or JSON lines of {"case",
    "probabilities": {label: p}}. A case without a line is an error: a classifier says something of every scan.

    Raises DataError: a line that is no such thing, a case or a label too few or too many.
    """
    found = find_labels(data)
    kept = found.scans[:limit]
    rows = _by_case(prediction, [scan.name for scan in found.scans])
    if missing := [one.name for one in kept if one.name not in rows]:
        raise DataError(f"{prediction.name} says nothing of {len(missing)} of {len(kept)} cases, as {missing[0]!r}")
    p = torch.tensor([_probabilities(prediction, one.name, rows[one.name], found.labels) for one in kept])
    truth: Tensor = torch.tensor([found.labels.index(one.label) for one in kept])
    patients = [one.patient for one in kept]
    metrics = label_figures(p, truth, found.labels, patients, points={}, resamples=resamples, seed=seed)
    metrics["model"] = {"name": prediction.name}
    metrics["data"] = {"name": found.name, "cases": len(kept)}
    write_results(output, metrics, [
        {"case": one.name, "patient": one.patient, "label": one.label,
         "probabilities": dict(zip(found.labels, row, strict=True))}
        for one, row in zip(kept, p.tolist(), strict=True)
    ])  # fmt: skip
    return metrics


def _probabilities(prediction: Path, case: str, row: dict[str, Any], labels: Sequence[str]) -> list[float]:
    given = row["probabilities"] if isinstance(row.get("probabilities"), dict) else row
    try:
        return [float(given[label]) for label in labels]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{prediction.name}, case {case}: expected a number for each of {list(labels)}; found {given}"
        ) from error


def _by_case(path: Path, known: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The rows of a file by their case; a path or an ending more or less in its name does not matter."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected predictions of another program, .jsonl or .csv")
    text = path.read_text(encoding="utf-8-sig")
    try:
        rows = list(csv.DictReader(text.splitlines())) if path.suffix == ".csv" else [
            json.loads(line) for line in text.splitlines() if line.strip()
        ]  # fmt: skip
        cases = [str(row["case"]) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path.name}: expected a `case` in every row, {known[0]!r} for example ({error!r})") from error
    short = {Path(name).name.partition(".")[0]: name for name in known}
    exact = len(short) == len(known)  # a short name that two cases share is none
    found: dict[str, dict[str, Any]] = {}
    for case, row in zip(cases, rows, strict=True):
        name = case if case in known else short.get(Path(case).name.partition(".")[0]) if exact else None
        if name is None:
            raise DataError(f"{path.name}: {case!r} is no case of the data; they are called {known[0]!r} and so on")
        if name in found:
            raise DataError(f"{path.name}: two rows are of the case {name!r}")
        found[name] = row
    return found
