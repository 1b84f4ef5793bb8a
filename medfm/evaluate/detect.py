"""A detector on a data set with boxes: AP, sensitivity at false boxes a scan, with intervals, beside boxes in the mean
place of each class."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from medfm.data.boxes import BoxedScan, find_boxes
from medfm.data.patients import of_held_patients
from medfm.errors import DataError
from medfm.evaluate.results import write_results
from medfm.image.boxes import grid_box
from medfm.metrics import (
    COCO_OVERLAPS,
    FALSE_PER_SCAN,
    at_threshold,
    average_precision,
    bootstrap_statistic,
    froc,
    match_boxes,
)
from medfm.scan import Box, Scan

if TYPE_CHECKING:
    from rich.table import Table

    from medfm.detector import Detector

__all__ = ["box_figures", "detection_table", "evaluate_detect", "on_voxels"]

Found = tuple[Tensor, Tensor, Tensor]
Drawn = tuple[Tensor, Tensor]


class _Seen(NamedTuple):
    """What was found and drawn on one scan, on the scan's own voxels; seconds: of processors."""

    name: str
    patient: str
    found: Found
    drawn: Drawn
    shown: list[Box]
    seconds: float
    shape: tuple[int, ...]


def evaluate_detect(
    model: Detector, data: Path, *, output: Path, held_out: bool = False, least: int = 1, limit: int | None = None,
    resamples: int = 200, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Find boxes in every scan of a data set; write `output/cases.jsonl` and `output/metrics.json`, return the metrics.

    data: see `medfm.data.boxes.find_boxes`. held_out: only the patients that the model's folder lists as held out of
    its training; the others then tell the mean place of each class, the baseline. least: only classes with so many
    boxes in the whole data set count. A box hits from IoU 0.5 in AP, and in FROC from 0.5 on pictures, 0.1 in volumes.
    The negative control, "exchanged", holds the boxes found on each scan against what is drawn on the next one: what is
    left comes from places and sizes that all scans share. "thresholds" is for choosing the score from which boxes are
    shown: precision and sensitivity at some, the model's own among them, which also has intervals under "shown".

    Raises:
        DataError: no such data, no class in common, or nobody was held out.
    """
    everything = find_boxes(data)
    names = [n for n in model.labels if everything.counts.get(n, 0) >= least]
    if not names:
        raise DataError(f"the model knows {model.labels}, the data {list(everything.counts)}: no class in common")
    chosen, rest = of_held_patients(everything.scans, model.about) if held_out else (everything.scans, [])
    seen = list(_looked(model, chosen[:limit], names))
    metrics = box_figures(
        [s.found for s in seen], [s.drawn for s in seen], names, [s.patient for s in seen], resamples=resamples,
        seed=seed, threshold=model.threshold,
    )  # fmt: skip
    unknown = {n: c for n, c in everything.counts.items() if n not in model.labels and c >= least}
    metrics["not known to the model"] = unknown
    if rest:
        prior = _mean_places(rest, names)
        metrics["mean_place"] = box_figures(
            [_placed(prior, s.shape) for s in seen], [s.drawn for s in seen], names, [s.patient for s in seen],
            resamples=resamples, seed=seed,
        )["ap50"]  # fmt: skip
    if len(seen) > 1:
        metrics["exchanged"] = _exchanged(seen, names, resamples=resamples, seed=seed)
    seconds = sorted(s.seconds for s in seen)[len(seen) // 2]
    metrics["model"] = {"name": model.name, "held_out_only": held_out, "seconds_per_scan": round(seconds, 3),
                        "parameters": sum(p.numel() for p in model.parameters())}  # fmt: skip
    metrics["data"] = {"name": everything.name, "cases": len(seen), "least": least}
    rows = [{"case": s.name, "patient": s.patient, "boxes": [b.to_dict() for b in s.shown]} for s in seen]
    write_results(output, metrics, rows)
    return metrics


def box_figures(
    found: Sequence[Found], drawn: Sequence[Drawn], names: Sequence[str], patients: Sequence[str], *, resamples: int,
    seed: int, threshold: float = 0.5,
) -> dict[str, Any]:  # fmt: skip
    """ap50, ap, froc, cpm, precision and sensitivity of the boxes shown from `threshold` on and AP of each class, each
    with low, high and n (boxes drawn), resampled by patient.

    found: boxes (N, 6), scores, labels of each scan; drawn: boxes (M, 6), labels. Labels are numbers in `names`.
    """
    flat = all(bool((boxes[:, 3] - boxes[:, 0] <= 1).all()) for boxes, _ in drawn)
    hit = 0.5 if flat else 0.1
    precise = match_boxes(found, drawn, overlaps=COCO_OVERLAPS)
    loose = match_boxes(found, drawn, overlaps=[hit])
    counts = [int(sum((labels == k).sum() for _, labels in drawn)) for k in range(len(names))]

    def statistic(rows: list[int]) -> list[float]:
        figures = average_precision([precise[i] for i in rows], names)
        sensitivities, cpm = froc([loose[i] for i in rows])
        shown = at_threshold([loose[i] for i in rows], threshold)
        return [figures["ap50"], figures["ap"], cpm, *shown, *sensitivities, *figures["classes"].values()]

    n = sum(counts)
    intervals = bootstrap_statistic(
        statistic, patients, counts=[n] * (5 + len(FALSE_PER_SCAN)) + counts, resamples=resamples, seed=seed
    )
    ap50, ap, cpm, precision, sensitivity, *rest = (interval.as_dict() for interval in intervals)
    each = rest[len(FALSE_PER_SCAN) :]
    return {
        "format": "medfm.detect-metrics",
        "version": 1,
        "overall": ap50,
        "ap50": ap50,
        "ap": ap,
        "froc": {f"{rate:g}": value for rate, value in zip(FALSE_PER_SCAN, rest, strict=False)},
        "cpm": cpm,
        "hit_iou": hit,
        "shown": {"threshold": threshold, "precision": precision, "sensitivity": sensitivity},
        "thresholds": _thresholds(loose, threshold),
        "classes": {name: {"ap50": value} for name, value in zip(names, each, strict=True)},
        "bootstrap": {"resamples": resamples, "seed": seed, "level": 0.95, "cluster": "patient"},
    }


def _thresholds(matches: Sequence[dict[int, dict[str, np.ndarray]]], own: float) -> list[dict[str, float | None]]:
    rows = []
    for threshold in sorted({own, *(n / 10 for n in range(1, 10))}):
        values = [None if math.isnan(v) else round(v, 6) for v in at_threshold(matches, threshold)]
        rows.append({"threshold": threshold, "precision": values[0], "sensitivity": values[1]})
    return rows


def _looked(model: Detector, scans: Sequence[BoxedScan], names: Sequence[str]) -> Iterator[_Seen]:
    from rich.progress import track

    from medfm.predict import detect

    for boxed in track(scans, description="detecting", transient=True):
        scan = Scan.read(boxed.image)
        start = time.process_time()
        shown = detect(model, scan, threshold=0.01)
        seconds = time.process_time() - start
        shape = scan.data.shape[1:]
        kept = [b for b in shown if b.label in names]
        scores = torch.tensor([b.score or 0.0 for b in kept])
        found = (*on_voxels(scan, kept, names), scores)
        drawn = on_voxels(scan, [b for b in boxed.boxes if b.label in names], names)
        yield _Seen(boxed.name, boxed.patient, (found[0], found[2], found[1]), drawn, shown, seconds, shape)


def on_voxels(scan: Scan, boxes: Sequence[Box], names: Sequence[str]) -> Drawn:
    """Boxes as edges (N, 6) on the voxels of `scan`, and the numbers of their labels in `names`."""
    edges = torch.tensor([grid_box(scan, b, scan.data.shape[1:]) for b in boxes]).float().reshape(-1, 6)
    return edges, torch.tensor([names.index(b.label) for b in boxes], dtype=torch.long)


def _exchanged(seen: Sequence[_Seen], names: Sequence[str], *, resamples: int, seed: int) -> dict[str, Any]:
    """ap50 and cpm of what was found on each scan, stretched to the next one's size, for what is drawn there."""
    found = []
    for own, other in zip(seen, [*seen[1:], seen[0]], strict=True):
        scale = torch.tensor([b / a for a, b in zip(own.shape, other.shape, strict=True)] * 2)
        found.append((own.found[0] * scale, *own.found[1:]))
    drawn = [s.drawn for s in [*seen[1:], seen[0]]]
    figures = box_figures(found, drawn, names, [s.patient for s in seen], resamples=resamples, seed=seed)
    return {key: figures[key] for key in ("ap50", "cpm")}


def _mean_places(scans: Sequence[BoxedScan], names: Sequence[str]) -> Found:
    """For each class the mean of its boxes as shares of the scan, and how often a scan has one."""
    shares: list[list[Tensor]] = [[] for _ in names]
    for boxed in scans:
        if not any(b.label in names for b in boxed.boxes):
            continue
        edges, labels = on_voxels(scan := Scan.read(boxed.image), [b for b in boxed.boxes if b.label in names], names)
        for row, label in zip(edges / torch.tensor([*scan.data.shape[1:]] * 2), labels.tolist(), strict=True):
            shares[label].append(row)
    known = [k for k, rows in enumerate(shares) if rows]
    boxes = torch.stack([torch.stack(shares[k]).mean(0) for k in known])
    return boxes, torch.tensor([len(shares[k]) / len(scans) for k in known]), torch.tensor(known)


def _placed(prior: Found, shape: Sequence[int]) -> Found:
    boxes, scores, labels = prior
    return boxes * torch.tensor([*shape] * 2), scores, labels


def detection_table(metrics: dict[str, Any]) -> Table:
    """The figures as a table for a terminal, in percent."""
    from rich.table import Table

    shown = Table(title=f"{metrics['model']['name']} on {metrics['data']['name']}", title_justify="left")
    shown.add_column("")
    for heading in ("%", "95 % interval", "boxes"):
        shown.add_column(heading, justify="right")
    lines = [("AP at IoU 0.5", metrics["ap50"]), ("AP, 0.5 to 0.95", metrics["ap"]), ("CPM", metrics["cpm"])]
    own = metrics["shown"]
    lines += [(f"{key} of boxes from {own['threshold']:g} on", own[key]) for key in ("precision", "sensitivity")]
    if "mean_place" in metrics:
        lines.append(("AP50 of a box at each class's mean place", metrics["mean_place"]))
    if "exchanged" in metrics:
        lines.append(("AP50 of the boxes of another scan", metrics["exchanged"]["ap50"]))
    lines += [(f"sensitivity at {rate} false a scan", value) for rate, value in metrics["froc"].items()]
    lines += [(f"AP50: {name}", row["ap50"]) for name, row in metrics["classes"].items()]
    for label, values in lines:
        if values["value"] is None or math.isnan(values["value"]):
            continue
        interval = "" if values["low"] is None else f"{100 * values['low']:.1f} to {100 * values['high']:.1f}"
        shown.add_row(label, f"{100 * values['value']:.1f}", interval, str(values["n"]))
    return shown
