"""Pairs of scans registered: overlap of their labels before and after, folding, smoothness, target error, seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medfm.data.pairs import RegistrationPair, read_pairs, read_points
from medfm.errors import DataError
from medfm.evaluate.overlap import agreement, figures
from medfm.evaluate.results import write_results
from medfm.export.alignment import folding
from medfm.metrics import bootstrap_interval
from medfm.scan import Alignment, Mask, Scan

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["alignment_table", "evaluate_register", "read_alignments"]

Record = dict[str, Any]
Align = Callable[[Scan, Scan], Alignment]
_PLAIN = (
    "folding_percent", "sd_log_jacobian", "seconds", "cpu_seconds", "target_error_mm", "target_error_before_mm",
)  # fmt: skip


def evaluate_register(
    align: Align | Sequence[Alignment], pairs: Path, *, output: Path, name: str,
    labels: Mapping[int, str] | None = None, limit: int | None = None, tolerance: float = 1.0, resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Register every pair of a file; write `output/cases.jsonl` and `output/metrics.json`, return the metrics.

    align: (moving, fixed) -> alignment, timed; or the alignments of another program, in the order of the pairs.
    pairs: see `medfm.data.pairs.read_pairs`. name: what is measured, for people. labels: value -> name of those to
    compare; default: the values of the first pair's fixed labels, by number. tolerance: mm, of NSD.

    seconds are by the clock, cpu_seconds those that all threads computed, which other work on the machine leaves alone.
    Before means that the scans lie upon each other as their headers say. Folding and smoothness are those of the whole
    way from the fixed to the moving scan, over the field's grid.

    Raises:
        DataError: the file of pairs is wrong, or there are fewer alignments than pairs.
    """
    listed = read_pairs(pairs)[:limit]
    if not callable(align) and len(align) < len(listed):
        raise DataError(f"{len(align)} alignments for {len(listed)} pairs; one a pair is needed")
    named = dict(labels) if labels else _values(listed)
    records = list(_registered(align, listed, named, tolerance))
    metrics = _figures(records, list(named.values()), resamples=resamples, seed=seed)
    metrics["model"] = {"name": name}
    metrics["data"] = {"name": pairs.name, "cases": len(records), "tolerance_mm": tolerance}
    write_results(output, metrics, records)
    return metrics


def read_alignments(folder: Path, count: int) -> list[Alignment]:
    """The transforms 0000.h5, 0001.h5, ... (or .tfm) that another program left of `count` pairs. Raises DataError."""
    found = []
    for number in range(count):
        files = sorted(folder.glob(f"{number:04d}.*"))
        if len(files) != 1:
            raise DataError(f"{folder.name}: {len(files)} files {number:04d}.*; expected one transform for each pair")
        found.append(Alignment.read(files[0]))
    return found


def alignment_table(metrics: dict[str, Any]) -> Table:
    """The figures as a table for a terminal."""
    from rich.table import Table

    shown = Table(title=f"{metrics['model']['name']} on {metrics['data']['name']}", title_justify="left")
    shown.add_column("")
    shown.add_column("", justify="right")
    rows = [
        ("Dice before, %", metrics["before"]["overall"], 100), ("Dice, %", metrics["overall"], 100),
        ("HD95 before, mm", metrics["before"]["hd95"], 1), ("HD95, mm", metrics["hd95"], 1),
        *((f"Dice of {name}, %", row["dice"], 100) for name, row in metrics["classes"].items()),
        ("folded voxels, %", metrics["folding_percent"], 1), ("SD of log Jacobian", metrics["sd_log_jacobian"], 1),
        ("target error before, mm", metrics["target_error_before_mm"], 1),
        ("target error, mm", metrics["target_error_mm"], 1), ("seconds a pair", metrics["seconds"], 1),
        ("seconds of a core", metrics["cpu_seconds"], 1),
    ]  # fmt: skip
    for name, values, scale in rows:
        if values["value"] is not None:
            value, low, high = (scale * values[key] for key in ("value", "low", "high"))
            shown.add_row(name, f"{value:.3g} ({low:.3g} to {high:.3g})")
    shown.add_row("pairs", str(metrics["data"]["cases"]))
    return shown


def _registered(
    align: Align | Sequence[Alignment], pairs: Sequence[RegistrationPair], labels: Mapping[int, str], tolerance: float
) -> Iterator[Record]:
    from rich.progress import track

    for number, pair in enumerate(track(pairs, description="registering", transient=True)):
        moving, fixed = Scan.read(pair.moving), Scan.read(pair.fixed)
        start = time.perf_counter(), time.process_time()
        alignment = align(moving, fixed) if callable(align) else align[number]
        spent = (time.perf_counter() - start[0], time.process_time() - start[1]) if callable(align) else (np.nan,) * 2
        record = {"case": pair.name, "patient": pair.patient, **folding(alignment)}
        record.update(zip(("seconds", "cpu_seconds"), spent, strict=True))
        record.update(dict.fromkeys(("target_error_mm", "target_error_before_mm"), np.nan))
        if pair.points is not None:
            here, there = read_points(pair.points)
            record["target_error_mm"] = float(np.linalg.norm(alignment.points(here) - there, axis=1).mean())
            record["target_error_before_mm"] = float(np.linalg.norm(here - there, axis=1).mean())
        if pair.moving_labels is not None and pair.fixed_labels is not None:
            mask, truth = (_mask(path, labels) for path in (pair.moving_labels, pair.fixed_labels))
            d, h, w = fixed.spacing[::-1]
            for key, way in (("classes", alignment), ("before", Alignment(np.eye(4)))):
                found = way.warp_mask(mask, fixed).array
                record[key] = agreement(
                    found, truth.array, spacing=(d, h, w), labels=list(labels.values()), tolerance=tolerance
                )
        yield record


def _figures(records: Sequence[Record], labels: Sequence[str], *, resamples: int, seed: int) -> dict[str, Any]:
    drawn = [r for r in records if "classes" in r]
    metrics = figures(drawn, labels, resamples=resamples, seed=seed)
    metrics["format"] = "medfm.register-metrics"
    before = figures([{**r, "classes": r["before"]} for r in drawn], labels, resamples=resamples, seed=seed)
    metrics["before"] = {key: before[key] for key in ("overall", "nsd", "hd95", "classes")}
    for key in _PLAIN:
        known = [(r[key], r["patient"]) for r in records if not np.isnan(r[key])]
        metrics[key] = bootstrap_interval(
            [v for v, _ in known], [p for _, p in known], resamples=resamples, seed=seed
        ).as_dict()  # fmt: skip
    return metrics


def _values(pairs: Sequence[RegistrationPair]) -> dict[int, str]:
    """The values of the first labels there are, each named by its number."""
    first = next((p.fixed_labels for p in pairs if p.fixed_labels is not None), None)
    return {} if first is None else {int(v): str(int(v)) for v in np.unique(Scan.read(first).data) if v > 0}


def _mask(path: Path, labels: Mapping[int, str]) -> Mask:
    scan = Scan.read(path)
    values = np.round(scan.data[0].astype(np.float32)).astype(np.int64)
    numbered = np.zeros(values.shape, dtype=np.uint8)
    for number, value in enumerate(labels, 1):
        numbered[values == value] = number
    return scan.mask(numbered, dict(enumerate(labels.values(), 1)))
