"""What a reconstruction is good for: outlines of a segmentation model on it, against those people drew on the truth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.progress import track

from medfm.data.patients import of_held_patients
from medfm.data.slices import check_hounsfield, scaled
from medfm.data.volumes import find_pairs, read_labels
from medfm.errors import DataError
from medfm.evaluate.overlap import agreement, renumbered
from medfm.evaluate.reconstruct import classical_methods, tried
from medfm.metrics import bootstrap_interval
from medfm.objectives.reconstruction import fidelity, measure
from medfm.physics.ct import to_hu
from medfm.predict import segment
from medfm.scan import Scan

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from medfm.evaluate.reconstruct import Classical
    from medfm.physics.acquire import Measured
    from medfm.reconstructor import Reconstructor
    from medfm.segmenter import Segmenter

__all__ = ["evaluate_outlines"]

_SLICES = 64  # measured and reconstructed at once


def evaluate_outlines(
    model: Reconstructor, data: Path, *, segmenter: Segmenter, output: Path, held_out: bool = False,
    limit: int | None = None, resamples: int = 2000, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Measure labelled scans as the model's acquisition does, reconstruct, segment; write `output/outlines.json`.

    Returns the Dice of the outlines on the full picture and on the direct, the best classical and the network's, and
    these pictures' PSNR. A class counts where people drew it. held_out: only patients that the segmenter's folder
    lists as held out of its training. Up to 64 slices are measured at once, of MR with one mask.

    Raises DataError for CT that is not in HU, no class in common with the segmenter, none drawn, or nobody held out.
    """
    found = find_pairs(data)
    pairs = (of_held_patients(found.pairs, segmenter.about)[0] if held_out else found.pairs)[:limit]
    names = list(found.labels.values())
    if not set(names) & set(segmenter.labels):
        raise DataError(f"the segmenter knows {segmenter.labels}, the data {names}: no class in common")
    known = classical_methods(model)
    few = pairs[:: max(1, len(pairs) // 3)][:3]
    slabs = (m for p in few for m in _measured(model, read_labels(p, found.labels)[0], p.name, seed))
    scores = tried(model, known, slabs)
    best = max(scores, key=lambda name: scores[name], default=None)
    rows: list[dict[str, dict[str, float]]] = []
    patients = []
    for pair in track(pairs, description="outlining", transient=True):
        scan, truth = read_labels(pair, found.labels)
        if not truth.any():
            continue
        d, h, w = scan.spacing[::-1]
        whole = _pictures(model, _measured(model, scan, pair.name, seed), (d, h, w), known[best] if best else None)
        row = {}
        for name, x in whole.items():
            outlines = segment(segmenter, replace(scan, data=_picture(model, x))).array
            drawn = truth[tuple(slice(n) for n in outlines.shape)]
            classes = agreement(
                renumbered(outlines, segmenter.labels, names), drawn, spacing=(d, h, w), labels=names, partial=True
            )
            dice = float(np.nanmean([c["dice"] for c in classes.values()]))
            row[name] = {"dice": dice, "psnr": fidelity(x, whole["full"], ct=model.hounsfield)[0]}
        rows.append(row)
        patients.append(pair.patient)
    if not rows:
        raise DataError(f"{found.name}: not one of {len(pairs)} label maps draws any of {names}")

    def figure(name: str, what: str) -> dict[str, Any]:
        values = [row[name][what] for row in rows]
        return bootstrap_interval(values, patients, resamples=resamples, seed=seed).as_dict()

    metrics: dict[str, Any] = {"format": "medfm.outlines-metrics", "classical method": best}
    for name in rows[0]:
        metrics[name] = {what: figure(name, what) for what in ("dice", "psnr")}
    metrics["model"] = {"name": model.name}
    metrics["segmenter"] = {"name": segmenter.name, "held_out_only": held_out}
    metrics["data"] = {"name": found.name, "cases": len(rows), "simulated": True}
    output.mkdir(parents=True, exist_ok=True)
    (output / "outlines.json").write_text(json.dumps(metrics, indent=1) + "\n")
    return metrics


def _measured(model: Reconstructor, scan: Scan, name: str, seed: int) -> list[Measured]:
    """What the model's acquisition reads of a scan, slab by slab."""
    check_hounsfield(scan, name, hounsfield=model.hounsfield)
    values = scan.data[:1].astype(np.float32)
    if not model.hounsfield:
        values = scaled(values)
    slabs = torch.from_numpy(values)[None].split(_SLICES, 2)
    generator = torch.Generator().manual_seed(seed)
    return [measure(model, slab, generator, pixel=scan.spacing[0]) for slab in slabs]


def _pictures(
    model: Reconstructor, slabs: list[Measured], spacing: tuple[float, float, float], classical: Classical | None
) -> dict[str, Tensor]:
    """The truth and what becomes of the slabs' data, "full", "start", "network", "classical": (1, C, D, H, W) each."""
    made: dict[str, list[Tensor]] = {}
    for m in slabs:
        start = m.operator.start(m.y)
        network = model.reconstruct(start, m.y, m.operator, torch.tensor([spacing]))[0]
        parts = {"full": m.x, "start": start, "network": network}
        if classical:
            parts["classical"] = classical(m, start)
        for name, x in parts.items():
            made.setdefault(name, []).append(x)
    return {name: torch.cat(parts, 2) for name, parts in made.items()}


def _picture(model: Reconstructor, x: Tensor) -> NDArray[np.float32]:
    """A reconstruction (1, C, D, H, W) as a scan's voxels (1, D, H, W): HU, or the modulus, coils combined."""
    shown = to_hu(x[:, 0]) if model.hounsfield else x.abs().square().sum(1).sqrt()
    return shown.numpy(force=True).astype(np.float32)
