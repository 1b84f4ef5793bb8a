"""A segmentation model on a data set with label maps, or a folder of masks beside the truth."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medfm.data.patients import of_held_patients
from medfm.data.sets import check_exists
from medfm.data.volumes import LabelledScans, find_pairs, numbered, read_labels
from medfm.errors import DataError
from medfm.evaluate.overlap import agreement, figures, renumbered
from medfm.evaluate.results import write_results
from medfm.scan import Scan

if TYPE_CHECKING:
    from medfm.segmenter import Segmenter

__all__ = ["Record", "compare_masks", "evaluate_segment", "written"]

Record = dict[str, Any]


def evaluate_segment(
    model: Segmenter, data: Path, *, output: Path, held_out: bool = False, labels: Mapping[int, str] | None = None,
    flip: bool | None = None, partial: bool = False, limit: int | None = None, tolerance: float = 1.0,
    resamples: int = 2000, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Segment every scan of a data set; write `output/cases.jsonl` and `output/metrics.json`, return the metrics.

    data: see `medfm.data.volumes.find_pairs`. labels: value -> name, where the data set does not name them. Classes are
    matched by name; one that the model does not know counts as not found. held_out: only the patients that the model's
    folder lists as held out of its training. flip: see `medfm.segment`. partial: label maps leave out classes that are
    there: one counts in those scans only whose map draws it. tolerance: mm, of NSD. Of the times a scan takes
    (medians), seconds are by the clock, cpu_seconds those that all threads computed.

    Raises:
        DataError: no such data, no class in common, or nobody was held out.
    """
    found = find_pairs(data, labels=labels)
    names = list(found.labels.values())
    if not set(names) & set(model.labels):
        raise DataError(f"the model knows {model.labels}, the data {names}: no class in common; give --label")
    pairs = of_held_patients(found.pairs, model.about)[0] if held_out else found.pairs
    chosen = LabelledScans(found.name, pairs[:limit], found.labels)
    records = list(_segmented(model, chosen, flip=flip, tolerance=tolerance, partial=partial))
    mirrored = model.mirrored if flip is None else flip
    about = {"name": model.name, "flip": mirrored, "held_out_only": held_out, "partial": partial}
    taken = {
        f"{key}_per_scan": round(float(np.median([r[key] for r in records])), 3) for key in ("seconds", "cpu_seconds")
    }
    return written(records, chosen, {**about, **taken}, output, resamples, seed, tolerance)


def compare_masks(
    prediction: Path, truth: Path, *, output: Path, labels: Mapping[int, str] | None = None, partial: bool = False,
    tolerance: float = 1.0, resamples: int = 2000, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Measure masks that lie in a folder against those of the same file name in another.

    labels: value -> name; default: the values of the truth, by number. partial: see `evaluate_segment`. Raises
    DataError for a folder that is not there, a truth without a prediction, and two that are not on one grid.
    """
    for folder in (prediction, truth):
        check_exists(folder)
    files = sorted(p for p in truth.iterdir() if p.is_file() and not p.name.startswith("."))
    missing = [p.name for p in files if not (prediction / p.name).exists()]
    if not files or missing:
        raise DataError(f"{prediction} lacks {len(missing)} of {len(files)} files of {truth}: {missing[:3]}")
    read = [(p.name, Scan.read(prediction / p.name), Scan.read(p)) for p in files]
    values = sorted({int(v) for _, _, drawn in read for v in np.unique(drawn.data)} - {0})
    named = dict(labels) if labels else {v: str(v) for v in values}
    records = []
    for name, one, other in read:
        if one.data.shape != other.data.shape or not np.allclose(one.affine, other.affine, atol=0.1):
            raise DataError(f"{name}: prediction {one.data.shape} and truth {other.data.shape} are not on one grid")
        d, h, w = other.spacing[::-1]
        found, drawn = numbered(one, named), numbered(other, named)
        classes = agreement(
            found, drawn, spacing=(d, h, w), labels=list(named.values()), tolerance=tolerance, partial=partial
        )
        records.append({"case": name, "patient": name, "classes": classes})
    chosen = LabelledScans(truth.resolve().name, [], named)
    return written(records, chosen, {"name": prediction.resolve().name}, output, resamples, seed, tolerance)


def _segmented(
    model: Segmenter, data: LabelledScans, *, flip: bool | None, tolerance: float, partial: bool
) -> Iterator[Record]:
    from rich.progress import track

    from medfm.predict import segment

    names = list(data.labels.values())
    for pair in track(data.pairs, description="segmenting", transient=True):
        scan, truth = read_labels(pair, data.labels)
        start, busy = time.perf_counter(), time.process_time()
        mask = segment(model, scan, flip=flip)
        seconds, cpu = time.perf_counter() - start, time.process_time() - busy
        d, h, w = scan.spacing[::-1]
        found = renumbered(mask.array, model.labels, names)
        classes = agreement(found, truth, spacing=(d, h, w), labels=names, tolerance=tolerance, partial=partial)
        yield {
            "case": pair.name, "patient": pair.patient, "seconds": seconds, "cpu_seconds": cpu, "classes": classes,
        }  # fmt: skip


def written(
    records: list[Record], data: LabelledScans, model: dict[str, Any], output: Path, resamples: int, seed: int,
    tolerance: float,
) -> dict[str, Any]:  # fmt: skip
    """The figures of `records` as `output/metrics.json` and each of them in `cases.jsonl`; returns the former."""
    names = list(data.labels.values())
    metrics = figures(records, names, resamples=resamples, seed=seed)
    metrics["model"] = model
    metrics["data"] = {"name": data.name, "cases": len(records), "tolerance_mm": tolerance}
    write_results(output, metrics, records)
    return metrics
