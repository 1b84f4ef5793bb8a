"""A classifier on a data set with labels: AUC, balanced accuracy, calibration, operating points, beside thumbnails."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from medfm.data.labels import LabelledScan, find_labels, merged
from medfm.data.patients import of_held_patients
from medfm.errors import DataError
from medfm.evaluate.results import write_results
from medfm.metrics import bootstrap_interval, bootstrap_statistic, expected_calibration_error, sorting_figures
from medfm.scan import Scan

if TYPE_CHECKING:
    from rich.table import Table

    from medfm.classifier import Classifier

__all__ = ["classification_table", "evaluate_classify", "label_figures"]


class _Judged(NamedTuple):
    labelled: LabelledScan
    probabilities: list[float]
    covered: list[float]
    thumbnail: np.ndarray
    seconds: float


def evaluate_classify(
    model: Classifier | Sequence[Classifier], data: Path, *, output: Path, held_out: bool = False,
    limit: int | None = None, resamples: int = 500, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Classify every scan of a data set; write `output/cases.jsonl` and `output/metrics.json`, return the metrics.

    data: see `medfm.data.labels.find_labels`. held_out: only the patients that the model's folder lists as held out of
    its training. The others then give the baseline: the class whose mean thumbnail, 8 x 8 pixels, is nearest.
    The negative control, "covered", asks about every scan with the middle half of its height and width painted over:
    what is left comes from the frame around the thing (hairs, rulers, vignettes, how it was cut out).

    Raises:
        DataError: no such data, other labels than the model's, or nobody was held out.
    """
    models = [model] if not isinstance(model, Sequence) else list(model)
    names = models[0].labels
    found = merged(find_labels(data), models[0].about.get("merge", {}))
    if unknown := set(found.labels) - set(names):
        raise DataError(f"the model knows {names}, the data also {sorted(unknown)}; leave those out")
    chosen, rest = of_held_patients(found.scans, models[0].about) if held_out else (found.scans, [])
    judged = list(_judged(models, chosen[:limit]))
    p = torch.tensor([j.probabilities for j in judged])
    truth = torch.tensor([names.index(j.labelled.label) for j in judged])
    patients = [j.labelled.patient for j in judged]
    points = models[0].settings["points"] if len(models) == 1 else {}
    metrics = label_figures(p, truth, names, patients, points=points, resamples=resamples, seed=seed)
    covered = torch.tensor([j.covered for j in judged])
    own = label_figures(covered, truth, names, patients, points={}, resamples=resamples, seed=seed)
    metrics["covered"] = {key: own[key] for key in ("auc", "balanced_accuracy")}
    if rest:
        baseline = _nearest_means(rest, np.stack([j.thumbnail for j in judged]), names)
        own = label_figures(baseline, truth, names, patients, points={}, resamples=resamples, seed=seed)
        metrics["thumbnails"] = {key: own[key] for key in ("auc", "balanced_accuracy")}
    seconds = sorted(j.seconds for j in judged)[len(judged) // 2]
    metrics["model"] = {"name": ", ".join(m.name for m in models), "held_out_only": held_out,
                        "seconds_per_scan": round(seconds, 3), "temperature": models[0].settings["temperature"],
                        "parameters": sum(q.numel() for q in models[0].parameters())}  # fmt: skip
    metrics["data"] = {"name": found.name, "cases": len(judged)}
    rows = [{"case": j.labelled.name, "patient": j.labelled.patient, "label": j.labelled.label,
             "probabilities": dict(zip(names, j.probabilities, strict=True))} for j in judged]  # fmt: skip
    write_results(output, metrics, rows)
    return metrics


def label_figures(
    probabilities: Tensor, truth: Tensor, names: Sequence[str], patients: Sequence[str], *,
    points: dict[str, dict[str, float]], resamples: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """auc, balanced_accuracy and AUC of each class, each with low, high and n, resampled by patient; sensitivity and
    specificity at the operating points; the calibration error of the likeliest class."""

    def statistic(rows: list[int]) -> list[float]:
        return list(sorting_figures(probabilities[rows], truth[rows]).values())

    n = len(truth)
    intervals = bootstrap_statistic(
        statistic, patients, counts=[n, n, *[int((truth == k).sum()) for k in range(len(names))]],
        resamples=resamples, seed=seed,
    )  # fmt: skip
    auc, balanced, *each = (interval.as_dict() for interval in intervals)
    right = (probabilities.argmax(1) == truth).float()
    best = probabilities.amax(1).clamp(0, 1)
    classes: dict[str, Any] = {}
    for k, (name, own) in enumerate(zip(names, each, strict=True)):
        classes[name] = {"auc": own, "points": {}}
        for point, threshold in points.get(name, {}).items():
            called, present = probabilities[:, k] >= threshold, truth == k
            classes[name]["points"][point] = {
                "threshold": threshold,
                "sensitivity": _share(called, present, patients, resamples, seed),
                "specificity": _share(~called, ~present, patients, resamples, seed),
            }
    valid = bool((probabilities >= 0).all()) and bool(torch.allclose(probabilities.sum(1), torch.ones(n), atol=1e-3))
    return {
        "format": "medfm.classify-metrics",
        "version": 1,
        "overall": balanced,
        "auc": auc,
        "balanced_accuracy": balanced,
        "accuracy": bootstrap_interval(right.tolist(), patients, resamples=resamples, seed=seed).as_dict(),
        "ece": round(expected_calibration_error(best.tolist(), right.tolist()), 6) if valid else None,
        "classes": classes,
        "bootstrap": {"resamples": resamples, "seed": seed, "level": 0.95, "cluster": "patient"},
    }


def _share(hit: Tensor, among: Tensor, patients: Sequence[str], resamples: int, seed: int) -> dict[str, Any]:
    chosen = among.nonzero()[:, 0].tolist()
    values = hit[among].float().tolist()
    return bootstrap_interval(values, [patients[i] for i in chosen], resamples=resamples, seed=seed).as_dict()


def _judged(models: Sequence[Classifier], scans: Sequence[LabelledScan]) -> Iterator[_Judged]:
    from rich.progress import track

    from medfm.predict import classify

    for labelled in track(scans, description="classifying", transient=True):
        scan = labelled.read()
        start = time.process_time()
        scores = classify(models, scan)
        seconds = time.process_time() - start
        covered = classify(models, _covered(scan)).probabilities.values()
        yield _Judged(labelled, list(scores.probabilities.values()), list(covered), _thumbnail(scan), seconds)


def _covered(scan: Scan) -> Scan:
    """The middle half of height and width, a quarter of each slice as it is displayed, in the mean value of what is
    around it."""
    covered = replace(scan, data=scan.data.copy())
    shown = covered.slices()[0]
    (h, w), inside = shown.shape[2:], np.zeros(shown.shape[2:], bool)
    inside[h // 4 : h - h // 4, w // 4 : w - w // 4] = True
    for channel in shown:
        channel[:, inside] = channel[:, ~inside].mean()
    return covered


def _thumbnail(scan: Scan, size: int = 8) -> np.ndarray:
    """The mean slice at `size` x `size` pixels, flat."""
    middle = torch.from_numpy(scan.data.astype(np.float32).mean(1))
    small: np.ndarray = torch.nn.functional.adaptive_avg_pool2d(middle, size).flatten().numpy()
    return small


def _nearest_means(scans: Sequence[LabelledScan], thumbnails: np.ndarray, names: Sequence[str]) -> Tensor:
    """(N, K): how near each thumbnail is to the mean one of each class, as a softmax of distances."""
    known = np.stack([_thumbnail(s.read()) for s in scans])
    labels = np.array([names.index(s.label) for s in scans])
    scale = known.std(0) + 1e-6
    far = np.full((len(thumbnails), len(names)), math.inf)
    for k in range(len(names)):
        if (labels == k).any():
            far[:, k] = np.square((thumbnails - known[labels == k].mean(0)) / scale).mean(1)
    return torch.from_numpy(-far).softmax(1).float()


def classification_table(metrics: dict[str, Any]) -> Table:
    """The figures as a table for a terminal, in percent."""
    from rich.table import Table

    shown = Table(title=f"{metrics['model']['name']} on {metrics['data']['name']}", title_justify="left")
    shown.add_column("")
    for heading in ("%", "95 % interval", "scans"):
        shown.add_column(heading, justify="right")
    lines = [("AUC, mean of the classes", metrics["auc"]), ("balanced accuracy", metrics["balanced_accuracy"])]
    lines.append(("accuracy", metrics["accuracy"]))
    if baseline := metrics.get("thumbnails"):
        lines += [("AUC of the nearest thumbnail", baseline["auc"])]
        lines += [("balanced accuracy of the nearest thumbnail", baseline["balanced_accuracy"])]
    if control := metrics.get("covered"):
        lines += [("AUC with the middle covered", control["auc"])]
        lines += [("balanced accuracy with the middle covered", control["balanced_accuracy"])]
    for name, row in metrics["classes"].items():
        lines.append((f"AUC: {name}", row["auc"]))
        for point, at in row["points"].items():
            lines += [(f"  {point} point: {key}", at[key]) for key in ("sensitivity", "specificity")]
    for label, values in lines:
        if values["value"] is not None:
            interval = "" if values["low"] is None else f"{100 * values['low']:.1f} to {100 * values['high']:.1f}"
            shown.add_row(label, f"{100 * values['value']:.1f}", interval, str(values["n"]))
    if metrics["ece"] is not None:
        shown.add_row("calibration error (ECE)", f"{100 * metrics['ece']:.1f}", "", str(metrics["accuracy"]["n"]))
    return shown
