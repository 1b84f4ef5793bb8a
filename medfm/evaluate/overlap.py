"""How well label maps agree: Dice, surface Dice and 95 % Hausdorff distance of each class, with intervals by case."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medfm.metrics import bootstrap_interval

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["agreement", "figures", "overlap_table", "renumbered"]

Three = tuple[float, float, float]
_MEASURES = ("dice", "nsd", "hd95", "volume_ml", "true_volume_ml")


def agreement(
    found: NDArray[np.uint8], truth: NDArray[np.uint8], *, spacing: Three, labels: Sequence[str],
    tolerance: float = 1.0, partial: bool = False,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Of each class of two label maps (D, H, W), numbered in the order of `labels`, by MONAI.

    dice; nsd: share of both surfaces within `tolerance` mm of the other (Nikolov et al. 2018); hd95: 95 % Hausdorff
    distance in mm; volume_ml, true_volume_ml. A class that is in neither map has NaN; one that is in one of them only
    has Dice and NSD 0 and NaN for hd95. spacing: mm along D, H, W. partial: the truth leaves classes out that are
    there; one that it does not draw has NaN too.
    """
    rows = {}
    millilitres = math.prod(spacing) / 1000
    for value, name in enumerate(labels, 1):
        a, b = found == value, truth == value
        row = dict.fromkeys(_MEASURES, math.nan)
        row["volume_ml"], row["true_volume_ml"] = float(a.sum()) * millilitres, float(b.sum()) * millilitres
        if a.any() and b.any():
            row.update(_surfaces(a, b, spacing, tolerance))
        elif b.any() or (a.any() and not partial):
            row["dice"] = row["nsd"] = 0.0
        rows[name] = row
    return rows


def renumbered(labels: NDArray[np.uint8], given: Sequence[str], wanted: Sequence[str]) -> NDArray[np.uint8]:
    """A label map numbered 1, 2, ... in the order of the names `given`, in that of `wanted`; others become 0."""
    table = np.zeros(256, dtype=np.uint8)
    for number, name in enumerate(given, 1):
        table[number] = wanted.index(name) + 1 if name in wanted else 0
    return table[labels]


def _surfaces(a: NDArray[np.bool_], b: NDArray[np.bool_], spacing: Three, tolerance: float) -> dict[str, float]:
    import torch
    from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

    both = np.argwhere(a | b)
    box = tuple(
        slice(max(0, low - 1), high + 2) for low, high in zip(both.min(0), both.max(0), strict=True)
    )  # distances need the surroundings of both only
    one, other = (torch.from_numpy(np.ascontiguousarray(m[box]))[None, None].float() for m in (a, b))
    mm = list(spacing)
    if one.shape[2] == 1 and a.shape[0] == 1:  # a picture: its surface is its outline
        one, other, mm = one[:, :, 0], other[:, :, 0], mm[1:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI 1.6 calls itself with what it will remove
        return {
            "dice": float(compute_dice(one, other)),
            "nsd": float(compute_surface_dice(one, other, [tolerance], include_background=True, spacing=mm)),
            "hd95": float(compute_hausdorff_distance(one, other, include_background=True, percentile=95, spacing=mm)),
        }


def figures(records: Sequence[dict[str, Any]], labels: Sequence[str], *, resamples: int, seed: int) -> dict[str, Any]:
    """The figures of metrics.json: means with their 95 % bootstrap intervals by case, over all classes and of each.

    records: {"case", "patient", "classes": what `agreement` gives}. `overall` is the mean Dice of a case's classes.
    """

    def figure(measure: str, names: Sequence[str]) -> dict[str, Any]:
        values, groups = [], []
        for record in records:
            known = [v for n in names if not math.isnan(v := record["classes"][n][measure])]
            if known:
                values.append(float(np.mean(known)))
                groups.append(record["patient"])
        return bootstrap_interval(values, groups, resamples=resamples, seed=seed).as_dict()

    def errors(name: str) -> dict[str, Any]:
        rows = [(r["classes"][name], r["patient"]) for r in records]
        known = [(abs(c["volume_ml"] - c["true_volume_ml"]), p) for c, p in rows if c["true_volume_ml"] > 0]
        return bootstrap_interval(
            [v for v, _ in known], [p for _, p in known], resamples=resamples, seed=seed
        ).as_dict()  # fmt: skip

    classes = {
        name: {**{m: figure(m, [name]) for m in ("dice", "nsd", "hd95")}, "volume_error_ml": errors(name)}
        for name in labels
    }
    missed = {
        name: sum(r["classes"][name]["volume_ml"] == 0 < r["classes"][name]["true_volume_ml"] for r in records)
        for name in labels
    }
    return {
        "format": "medfm.segment-metrics",
        "version": 1,
        "overall": figure("dice", labels),
        "nsd": figure("nsd", labels),
        "hd95": figure("hd95", labels),
        "classes": classes,
        "missed": {name: count for name, count in missed.items() if count},
        "bootstrap": {"resamples": resamples, "seed": seed, "level": 0.95, "cluster": "patient"},
    }


def overlap_table(metrics: dict[str, Any]) -> Table:
    """The figures as a table for a terminal: Dice and NSD in percent, distances in mm."""
    from rich.table import Table

    shown = Table(title=f"{metrics['model']['name']} on {metrics['data']['name']}", title_justify="left")
    shown.add_column("")
    for heading in ("Dice %", "NSD %", "HD95 mm", "volume off by, ml", "cases"):
        shown.add_column(heading, justify="right")

    def cell(values: dict[str, Any] | None, scale: float) -> str:
        if values is None or values["value"] is None:
            return ""
        value, low, high = (scale * values[key] for key in ("value", "low", "high"))
        digits = 1 if scale == 100 else 2
        return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"

    rows = [("all classes", {"dice": metrics["overall"], "nsd": metrics["nsd"], "hd95": metrics["hd95"]})]
    for name, row in [*rows, *metrics["classes"].items()]:
        cells = [cell(row["dice"], 100), cell(row["nsd"], 100), cell(row["hd95"], 1)]
        shown.add_row(name, *cells, cell(row.get("volume_error_ml"), 1), str(row["dice"]["n"]))
    for name, count in metrics["missed"].items():
        shown.add_row(f"{name}: not found in {count} that have it")
    return shown
