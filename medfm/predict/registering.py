"""Two scans onto each other: by a trained network where one fits, by search (`medfm.iterative`) everywhere else."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from medfm.errors import ConfigError, DataError
from medfm.grid import placed
from medfm.scan import Alignment, Scan

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medfm.registrar import Registrar

__all__ = ["likeness", "register"]

Method = Literal["network", "structures", "rigid", "affine", "bspline", "demons"]
_STEPS = 40  # of instance optimisation


def register(
    moving: Scan, fixed: Scan, *, model: Registrar | None = None, method: Method | None = None, optimise: bool = False,
    contrast: Literal["any", "same"] = "any",
) -> Alignment:  # fmt: skip
    """Where each point of `fixed` lies in `moving`, in RAS mm: an Alignment, which warps scans, masks and points.

    method: default "network" if a `model` is given, else "affine"; "structures" is for MR of two heads, of any usual
    contrasts (`medfm.predict.matching`); see `medfm.iterative.iterate` for the others.
    optimise: descend further on this very pair after the network; seconds instead of milliseconds. contrast: "same"
    lets a search compare by correlation instead of mutual information.

    Raises:
        ConfigError: "network" without a model, or a model with another method. DataError: the model was trained on
        smaller fields of view, or a search failed.
    """
    method = method or ("network" if model is not None else "affine")
    if (method == "network") != (model is not None):
        raise ConfigError(f"method {method!r} {'needs' if model is None else 'takes no'} model; see `medfm models`")
    if model is None:
        if optimise:
            raise ConfigError(f"optimise goes on from a network's field; method {method!r} has none")
        if method == "structures":
            from medfm.predict.matching import match

            return match(moving, fixed)
        from medfm.iterative import iterate

        assert method != "network"
        return iterate(moving, fixed, method=method, likeness="ncc" if contrast == "same" else "mi")
    return _by_network(model, moving, fixed, optimise=optimise)


def likeness(a: Scan, b: Scan) -> dict[str, float]:
    """Of two scans on one grid: correlation, and normalised mutual information of 32 bins (1 none, 2 all)."""
    one, other = (scan.data.astype(np.float32).mean(0).ravel() for scan in (a, b))
    counts = np.histogram2d(one, other, bins=32)[0]
    first, second, joint = (_entropy(part) for part in (counts.sum(1), counts.sum(0), counts))
    constant = one.std() == 0 or other.std() == 0
    return {
        "correlation": 0.0 if constant else float(np.corrcoef(one, other)[0, 1]),
        "nmi": (first + second) / joint if joint else 1.0,
    }


def _entropy(counts: NDArray[np.float64]) -> float:
    p = counts[counts > 0] / counts.sum()
    return -float((p * np.log(p)).sum())


def _by_network(model: Registrar, moving: Scan, fixed: Scan, *, optimise: bool) -> Alignment:
    import torch

    _check_extent(model, fixed)
    first = _first(model, moving, fixed)
    grids = [model.preparation(scan) for scan in (moving, fixed)]
    source, target = (placed(scan, grid) for scan, grid in zip((moving, fixed), grids, strict=True))
    brought = Alignment(first).warp(source, target, edge=True)
    numbers = [replace(grids[0], array=brought.data, spacing=grids[1].spacing).numbers(), grids[1].numbers()]
    a, b = (x[None].to(torch.float32) for x in numbers)
    spacing = torch.tensor([grids[1].spacing], dtype=torch.float32)
    u = model.displacement(a, b, spacing=spacing, optimise=_STEPS if optimise else 0)[0].numpy()
    mm = np.einsum("ij,jdhw->idhw", target.affine[:3, :3].astype(np.float32), u[::-1])  # D, H, W to x, y, z
    method = f"network {model.name}" + (", optimised" if optimise else "")
    return Alignment(first, np.ascontiguousarray(mm, dtype=np.float32), target.affine, method)


def _first(model: Registrar, moving: Scan, fixed: Scan) -> NDArray[np.float64]:
    from medfm.iterative import iterate, starting

    if model.start in ("rigid", "affine"):
        return iterate(moving, fixed, method=model.start).matrix
    return starting(moving, fixed, header=model.start == "header")


def _check_extent(model: Registrar, fixed: Scan) -> None:
    known = model.about.get("extent mm")
    if known and any(mm > 2 * most for mm, most in zip(fixed.extent, known, strict=True)):
        shown = [" x ".join(f"{v:.0f}" for v in size) for size in (fixed.extent, known)]
        raise DataError(
            f"the scan measures {shown[0]} mm (D, H, W); {model.name or 'the model'} was trained on {shown[1]} mm. "
            "Crop it to what the model knows, or use --method affine, bspline or demons"
        )
