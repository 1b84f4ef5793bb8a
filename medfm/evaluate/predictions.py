"""What another program found, measured as our models are: its boxes, probabilities, pictures, on the same data."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medfm.data.boxes import BoxedScan, find_boxes
from medfm.data.labels import find_labels
from medfm.data.sets import stem
from medfm.data.slices import has_tissue
from medfm.errors import DataError
from medfm.evaluate.classify import label_figures
from medfm.evaluate.detect import box_figures, on_voxels
from medfm.evaluate.reconstruct import block_of, fidelity_figures, slice_figures
from medfm.evaluate.results import write_results
from medfm.image.intensity import robust_range
from medfm.scan import Box, Scan

__all__ = ["evaluate_predicted_boxes", "evaluate_predicted_labels", "evaluate_predicted_pictures"]


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


def evaluate_predicted_pictures(
    prediction: Path, data: Sequence[Path], *, output: Path, limit: int | None = None, resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """The figures of `evaluate_reconstruct` for pictures that exist already; write `output/cases.jsonl` and
    `metrics.json`.

    data: the true scans, on their own voxels, slice by slice; those without tissue are left out. prediction: a scan, or
    a folder of scans named like the true ones, on the same voxels and of the same unit: HU of CT, else the truth's own,
    of which the 0.5 and 99.9 percentiles are taken as 0 and 1. limit: so many slices of a scan, evenly spread.

    Raises DataError: a scan that is not there, on other voxels, or no slice is left.
    """
    records = []
    for path in data:
        truth, found = Scan.read(path), Scan.read(_beside(prediction, path, alone=len(data) == 1))
        if truth.data.shape != found.data.shape or not np.allclose(truth.affine, found.affine, atol=0.1):
            raise DataError(
                f"{path.name}: found {found.data.shape[1:]} voxels for {truth.data.shape[1:]}, or in another place; "
                "expected a prediction on the voxels of its truth"
            )
        ct = truth.units == "HU"
        x, y = (_scaled(scan.slices()[0][:1], truth, ct=ct) for scan in (found, truth))
        shown = (y - 1) * 1000 if ct else y
        full = [k for k in range(y.shape[1]) if has_tissue(shown[:, k], hounsfield=ct)]
        for k in full[:: 1 if limit is None else max(1, len(full) // limit)][:limit]:
            name = f"{stem(path)}:{k}"
            figures = slice_figures(x[None, :, k : k + 1], y[None, :, k : k + 1], ct=ct)
            records.append({"case": name, "block": block_of(name), "network": figures})
    if not records:
        raise DataError("no slice is left: they hold no tissue")
    metrics = fidelity_figures(records, resamples=resamples, seed=seed)
    metrics["model"] = {"name": prediction.name}
    metrics["data"] = {"names": sorted(stem(path) for path in data), "cases": len(records), "simulated": False}
    write_results(output, metrics, records)
    return metrics


def _beside(prediction: Path, truth: Path, *, alone: bool) -> Path:
    """The prediction of one truth."""
    if prediction.is_dir() and (prediction / truth.name).exists():
        return prediction / truth.name
    if prediction.is_dir() or not alone:
        raise DataError(f"{prediction} holds no {truth.name}; expected one scan, or a folder of scans named like DATA")
    return prediction


def _scaled(array: NDArray[Any], truth: Scan, *, ct: bool) -> Tensor:
    """In units of water, or the range of the truth as 0 to 1."""
    low, high = (-1000.0, 0.0) if ct else robust_range(truth.data[:1], (0.5, 99.9))
    return ((torch.from_numpy(array.astype(np.float32)) - low) / (high - low)).clamp(min=0)


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
