"""What a reconstruction is good for: outlines of a segmentation model on it, against those people drew on the truth."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from medfm.data.patients import of_held_patients
from medfm.data.volumes import Pair, find_pairs, read_labels
from medfm.errors import DataError
from medfm.evaluate.overlap import agreement, renumbered
from medfm.evaluate.reconstruct import classical_methods
from medfm.image.intensity import robust_range
from medfm.metrics import bootstrap_interval
from medfm.objectives.reconstruction import fidelity, measure
from medfm.predict import segment
from medfm.scan import Scan

if TYPE_CHECKING:
    from torch import Tensor

    from medfm.physics.acquire import Measured
    from medfm.reconstructor import Reconstructor
    from medfm.segmenter import Segmenter

__all__ = ["evaluate_outlines"]


def evaluate_outlines(
    model: Reconstructor, data: Path, *, segmenter: Segmenter, output: Path, limit: int | None = None,
    resamples: int = 2000, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Undersample labelled MR volumes, reconstruct, segment; write `output/outlines.json`, return the figures.

    Dice of the full picture's outlines and of those on the zero-filled, the best classical and the network's picture,
    and their PSNR, over patients held out of the segmenter's training. Slices are measured alike, with one mask.

    Raises DataError for a model of CT, or data without a patient that was held out.
    """
    if not model.complex or model.acquisition.separate:
        raise DataError("outlines are measured on simulated MR of one picture; give such a model")
    found = find_pairs(data)
    pairs = of_held_patients(found.pairs, segmenter.about)[0][:limit]
    names = list(found.labels.values())
    known = classical_methods(model)
    scores = {name: [_psnr(model, p, found.labels, method, seed) for p in pairs[:3]] for name, method in known.items()}
    best = max(scores, key=lambda name: sum(scores[name]))
    rows: list[dict[str, dict[str, float]]] = []
    for pair in pairs:
        scan, truth = read_labels(pair, found.labels)
        m = _measured(model, scan, seed)
        start = m.operator.start(m.y)
        d, h, w = scan.spacing[::-1]
        spacing = torch.tensor([[d, h, w]])
        network = model.reconstruct(start, m.y, m.operator, spacing)[0]
        pictures = {"full": m.x, "start": start, "classical": known[best](m, start), "network": network}
        row = {}
        for name, x in pictures.items():
            shown = replace(scan, data=x.abs()[0].numpy(force=True).astype(np.float32))
            outlines = segment(segmenter, shown).array
            classes = agreement(renumbered(outlines, segmenter.labels, names), truth, spacing=(d, h, w), labels=names)
            dice = float(np.nanmean([c["dice"] for c in classes.values()]))
            row[name] = {"dice": dice, "psnr": fidelity(x, m.x, ct=False)[0]}
        rows.append(row)
    patients = [p.patient for p in pairs]

    def figure(name: str, what: str) -> dict[str, Any]:
        values = [row[name][what] for row in rows]
        return bootstrap_interval(values, patients, resamples=resamples, seed=seed).as_dict()

    metrics: dict[str, Any] = {"format": "medfm.outlines-metrics", "classical method": best}
    for name in ("full", "start", "classical", "network"):
        metrics[name] = {what: figure(name, what) for what in ("dice", "psnr")}
    metrics["model"], metrics["segmenter"] = {"name": model.name}, {"name": segmenter.name}
    metrics["data"] = {"name": found.name, "cases": len(pairs), "simulated": True}
    output.mkdir(parents=True, exist_ok=True)
    (output / "outlines.json").write_text(json.dumps(metrics, indent=1) + "\n")
    return metrics


def _measured(model: Reconstructor, scan: Scan, seed: int) -> Measured:
    low, high = robust_range(scan.data, (0.5, 99.9))
    image = torch.from_numpy(((scan.data[:1].astype(np.float32) - low) / (high - low)).clip(0, 1))[None]
    return measure(model, image, torch.Generator().manual_seed(seed), pixel=scan.spacing[0])


def _psnr(
    model: Reconstructor, pair: Pair, labels: dict[int, str], method: Callable[[Measured, Tensor], Tensor], seed: int
) -> float:
    m = _measured(model, read_labels(pair, labels)[0], seed)
    return fidelity(method(m, m.operator.start(m.y)), m.x, ct=False)[0]
