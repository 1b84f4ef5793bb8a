"""A reconstruction network on measurements simulated of scans: PSNR and SSIM beside direct and classical methods."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from medfm.data.slices import SliceCase, read_slices
from medfm.errors import DataError
from medfm.evaluate.results import write_results
from medfm.metrics import bootstrap_interval
from medfm.nn.slices import fold, unfold
from medfm.objectives.reconstruction import fidelity, gradient_difference, measure
from medfm.physics.linear import residual

if TYPE_CHECKING:
    from rich.table import Table

    from medfm.physics.acquire import Measured
    from medfm.reconstructor import Reconstructor

__all__ = [
    "block_of",
    "classical_methods",
    "evaluate_reconstruct",
    "fidelity_figures",
    "fidelity_table",
    "slice_figures",
    "tried",
]

Record = dict[str, Any]
Classical = Callable[["Measured", Tensor], Tensor]
_WEIGHTS = (3e-4, 1e-3, 3e-3, 1e-2)  # of sparse priors, tried on a few slices
_BLOCK = 8  # neighbouring slices drawn together in the intervals


def evaluate_reconstruct(
    model: Reconstructor, data: Sequence[Path], *, output: Path, held_out: bool = False, limit: int | None = None,
    resamples: int = 2000, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Measure every slice, reconstruct it; write `output/cases.jsonl` and `output/metrics.json`, return the metrics.

    data: scans, read as the model's training read them. held_out: only slices that the model's folder lists as held
    out of its training. limit: so many slices, evenly spread. The classical method is the best of its kind, its weight
    tuned on every fifth of these very slices, which favours it; "tried" has the mean PSNR of each on them. Intervals
    draw blocks of neighbouring slices. The negative control, "plain", is an even disc, measured likewise: a network
    that adds anatomy to it invents.

    Raises DataError where no slice is left.
    """
    depth = 16 if getattr(model.acquisition, "ndim", 2) == 3 else 1
    cases = read_slices(
        data, hounsfield=model.hounsfield, size=model.about.get("size", 128), plane=model.about.get("plane", "axial"),
        depth=depth,
    )  # fmt: skip
    if held_out:
        held = set(model.about.get("held out", []))
        cases = [c for c in cases if c.name in held]
    if limit is not None:
        cases = cases[:: max(1, len(cases) // limit)][:limit]
    if not cases:
        raise DataError("no slice is left: none was held out, or they hold no tissue")
    methods = classical_methods(model)
    few = cases[:: max(1, len(cases) // 5)]
    scores = tried(model, methods, (_measured(model, case, seed) for case in few))
    best = max(scores, key=lambda name: scores[name], default=None)
    tuned = None if best is None else methods[best]
    records = [_record(model, case, tuned, seed) for case in cases]
    metrics = fidelity_figures(records, resamples=resamples, seed=seed)
    seconds = sorted(r["seconds"] for r in records)[len(records) // 2]
    metrics["model"] = {
        "name": model.name, "parameters": sum(p.numel() for p in model.parameters()), "seconds": round(seconds, 4),
        "held_out_only": held_out,
    }  # fmt: skip
    metrics["classical_method"], metrics["tried"] = best, {name: round(psnr, 4) for name, psnr in scores.items()}
    metrics["plain"] = _plain(model, cases[0], seed)
    metrics["data"] = {"names": sorted({c.scan for c in cases}), "cases": len(cases), "simulated": True}
    write_results(output, metrics, records)
    return metrics


def fidelity_table(metrics: dict[str, Any]) -> Table:
    """The figures as a table for a terminal."""
    from rich.table import Table

    shown = Table(title=f"{metrics['model']['name']} on {', '.join(metrics['data']['names'])}", title_justify="left")
    for name in ("", "PSNR, dB", "SSIM", "gradient error"):
        shown.add_column(name, justify="right" if name else "left")
    found = "network" if "start" in metrics else "prediction"
    rows = [("direct", "start"), (metrics.get("classical_method") or "", "classical"), (found, "network")]
    for words, key in rows:
        part = metrics.get(key)
        if part:
            cells = [part[name] for name in ("psnr", "ssim", "gradient")]
            shown.add_row(words, *(f"{c['value']:.4g} ({c['low']:.4g} to {c['high']:.4g})" for c in cells))
    if plain := metrics.get("plain"):
        shown.add_row("an even disc, direct and network", f"{plain['start']:.4g}, {plain['network']:.4g}")
    shown.add_row("slices", str(metrics["data"]["cases"]))
    return shown


def _record(model: Reconstructor, case: SliceCase, tuned: Classical | None, seed: int) -> Record:
    m = _measured(model, case, seed)
    start = m.operator.start(m.y)
    spacing = torch.tensor([[case.thickness, case.pixel, case.pixel]])
    begun = time.process_time()
    found, _ = model.reconstruct(start, m.y, m.operator, spacing)
    seconds = time.process_time() - begun
    record: Record = {"case": case.name, "block": block_of(case.name), "seconds": seconds}
    pictures = {"start": start, "network": found}
    if tuned:
        pictures["classical"] = tuned(m, start)
    record |= {name: slice_figures(x, m.x, ct=model.hounsfield) for name, x in pictures.items()}
    record["residual"] = float(residual(m.operator, found, m.y)[0])
    return record


def slice_figures(x: Tensor, truth: Tensor, *, ct: bool) -> dict[str, float]:
    """PSNR, SSIM (see `fidelity`) and gradient error of a slice or slab (1, C, D, H, W)."""
    psnr, ssim = fidelity(x, truth, ct=ct)
    return {"psnr": psnr, "ssim": ssim, "gradient": float(gradient_difference(x.abs(), truth.abs()))}


def block_of(name: str) -> str:
    """Of a slice called scan:number: the block of neighbours that the intervals draw together."""
    scan, number = name.rsplit(":", 1)
    return f"{scan}:{int(number) // _BLOCK}"


def _plain(model: Reconstructor, like: SliceCase, seed: int) -> dict[str, float]:
    """PSNR in dB, direct and the network's, of a disc of water, or of half the range of MR, in slices like `like`."""
    *_, h, w = like.image.shape
    away = torch.hypot(torch.linspace(-1, 1, h)[:, None], torch.linspace(-1, 1, w)).expand(like.image.shape)
    inside, outside = (0.0, -1000.0) if model.hounsfield else (0.5, 0.0)
    m = measure(
        model, torch.where(away < 0.7, inside, outside)[None], torch.Generator().manual_seed(seed), pixel=like.pixel
    )
    start = m.operator.start(m.y)
    found, _ = model.reconstruct(start, m.y, m.operator, torch.tensor([[like.thickness, like.pixel, like.pixel]]))
    both = (fidelity(x, m.x, ct=model.hounsfield)[0] for x in (start, found))
    return dict(zip(("start", "network"), (round(v, 4) for v in both), strict=True))


def _measured(model: Reconstructor, case: SliceCase, seed: int) -> Measured:
    """The same noise and sampling for every model that is shown this slice."""
    generator = torch.Generator().manual_seed(seed + 1000 * int(case.name.rsplit(":", 1)[1]) + len(case.scan))
    return measure(model, case.image[None], generator, pixel=case.pixel)


def tried(model: Reconstructor, methods: dict[str, Classical], measured: Iterable[Measured]) -> dict[str, float]:
    """The mean PSNR in dB of each method over what was measured."""
    if not methods:
        return {}
    scores: dict[str, list[float]] = {name: [] for name in methods}
    for m in measured:
        start = m.operator.start(m.y)
        for name, method in methods.items():
            scores[name].append(fidelity(method(m, start), m.x, ct=model.hounsfield)[0])
    return {name: sum(values) / len(values) for name, values in scores.items()}


def classical_methods(model: Reconstructor) -> dict[str, Classical]:
    """What needs no training, for the data of a model's acquisition, under several weights of its prior."""
    from medfm.physics.compressed import sparse, split_bregman
    from medfm.physics.mri import Cartesian

    if model.complex:
        if getattr(model.acquisition, "ndim", 2) == 3:
            return {}
        found: dict[str, Classical] = {}
        for weight in _WEIGHTS:

            def bregman(m: Measured, start: Tensor, weight: float = weight) -> Tensor:
                assert isinstance(m.operator, Cartesian)
                if m.operator.maps is not None:
                    return sparse(m.operator, m.y, prior="tv", weight=weight)
                return split_bregman(m.operator, m.y, weight=weight)

            def wavelet(m: Measured, start: Tensor, weight: float = weight) -> Tensor:
                assert isinstance(m.operator, Cartesian)
                return sparse(m.operator, m.y, weight=weight)

            found[f"total variation, weight {weight:g}"] = bregman
            found[f"wavelet, weight {weight:g}"] = wavelet
        return found
    return {
        **{f"total variation, weight {w:g}": _smoothed(w) for w in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)},
        **{f"directional bands, threshold {t:g}": _shrunk(t) for t in (0.005, 0.01, 0.02, 0.04)},
    }


def _smoothed(weight: float) -> Classical:
    """Total-variation denoising of the direct reconstruction (Rudin, Osher & Fatemi 1992), by deepinv."""

    def run(m: Measured, start: Tensor) -> Tensor:
        from deepinv.models import TVDenoiser

        return unfold(TVDenoiser(n_it_max=300)(fold(start), ths=weight), len(start))

    return run


def _shrunk(threshold: float) -> Classical:
    """Soft thresholds on the bands that WavResNet reads, the coarse rest left alone: what it does without a network."""

    def run(m: Measured, start: Tensor) -> Tensor:
        from medfm.nn.directional import directional_bands, from_bands

        directions, x = (8, 4, 2), start[:, 0].flatten(0, 1)
        bands = directional_bands(x, directions)
        bands[:, :-1] = torch.nn.functional.softshrink(bands[:, :-1], threshold)
        return from_bands(bands, directions, (x.shape[-2], x.shape[-1])).view_as(start)

    return run


def fidelity_figures(records: Sequence[Record], *, resamples: int, seed: int) -> dict[str, Any]:
    """The metrics of records of slices: "block", "network" and perhaps "start", "classical" ({"psnr", "ssim",
    "gradient"}), and "residual"."""
    metrics: dict[str, Any] = {"format": "medfm.reconstruct-metrics"}
    blocks = [r["block"] for r in records]

    def mean(values: list[float]) -> dict[str, Any]:
        return bootstrap_interval(values, blocks, resamples=resamples, seed=seed).as_dict()

    for part in ("start", "classical", "network"):
        if part in records[0]:
            metrics[part] = {name: mean([r[part][name] for r in records]) for name in ("psnr", "ssim", "gradient")}
    for name in ("psnr", "ssim"):  # the shape that every evaluation shares
        metrics[name] = metrics["network"][name]
    metrics["overall"] = metrics["ssim"]  # a share, as the other tasks' headline is
    if "start" in records[0]:
        metrics["gain"] = mean([r["network"]["psnr"] - r["start"]["psnr"] for r in records])
    if "residual" in records[0]:
        metrics["residual"] = mean([r["residual"] for r in records])
    return metrics
