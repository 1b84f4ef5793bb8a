"""Two heads onto each other, of any contrasts, by the structures that a segmentation model finds in both."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from medfm.errors import DataError
from medfm.grid import placed
from medfm.scan import Alignment, Scan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from medfm.segmenter import Segmenter

__all__ = ["match"]

_MODEL = "brain"
_SPACING = 3.0  # mm, of the labels that are laid onto each other
_ROUNDS = ((2, 40), (1, 20))  # labels averaged over so many voxels, steps of descent on them
_STEPS, _FINER = 5, 2  # of scaling and squaring; voxels of the labels in one of the velocity
_RATE, _SMOOTH = 0.05, 0.01  # of Adam; weight of the velocity's squared gradients
_LEAST = 300.0  # mm3 of a structure whose middle counts


def match(moving: Scan, fixed: Scan, *, model: Segmenter | None = None) -> Alignment:
    """Where each point of `fixed` lies in `moving`, by what `model` (default: the shipped "brain") outlines in both.

    An affine map lays the middles of the structures upon each other; a stationary velocity, scaled and squared so that
    it does not fold, is then descended until their labels overlap. Contrast plays no part once both scans are outlined:
    the labels that SynthMorph (Hoffmann et al., TMI 2022) is trained by are here found and compared for this very pair.

    Raises:
        DataError: the scans have less than four structures in common. ScanError: too little of a head.
    """
    import torch

    model = model or _brain()
    (a, there), (b, here) = (_outlined(model, scan) for scan in (moving, fixed))
    first = _affine(_middles(a, there), _middles(b, here))
    known = [value for value in range(1, len(model.labels) + 1) if (a == value).any() and (b == value).any()]
    brought = Alignment(first).warp(replace(there, data=_shares(a, known)), here, edge=True)
    u = _descended(torch.from_numpy(brought.data)[None], torch.from_numpy(_shares(b, known))[None])
    mm = np.einsum("ij,jdhw->idhw", here.affine[:3, :3].astype(np.float32), u[0].numpy()[::-1])  # D, H, W to x, y, z
    return Alignment(first, np.ascontiguousarray(mm, dtype=np.float32), here.affine, f"structures by {model.name}")


def _outlined(model: Segmenter, scan: Scan) -> tuple[NDArray[np.uint8], Scan]:
    grid = replace(model.preparation, spacing=(_SPACING,) * 3)(scan)
    return model.label(grid), placed(scan, grid)


def _shares(labels: NDArray[np.uint8], known: Sequence[int]) -> NDArray[np.float32]:
    return (labels == np.array(known)[:, None, None, None]).astype(np.float32)


def _middles(labels: NDArray[np.uint8], scan: Scan) -> dict[int, tuple[float, NDArray[np.float64]]]:
    """mm3 and middle, RAS mm, of each structure of some size."""
    voxel, found = float(np.prod(scan.spacing)), {}
    for value in np.unique(labels[labels > 0]).tolist():
        index = np.argwhere(labels == value)
        if len(index) * voxel >= _LEAST:
            found[value] = (len(index) * voxel, (scan.affine @ [*index.mean(0)[::-1], 1.0])[:3])
    return found


def _affine(
    there: dict[int, tuple[float, NDArray[np.float64]]], here: dict[int, tuple[float, NDArray[np.float64]]]
) -> NDArray[np.float64]:
    """4x4 from the middles of the fixed scan to those of the moving one, by least squares; large ones count more."""
    common = sorted(there.keys() & here.keys())
    if len(common) < 4:
        raise DataError(f"found {len(common)} structures in both scans, which is too few to lay them onto each other")
    weight = np.sqrt([min(there[value][0], here[value][0]) for value in common])[:, None]
    y, x = (np.array([[*middles[value][1], 1.0] for value in common]) for middles in (there, here))
    matrix = np.eye(4)
    matrix[:3] = np.linalg.lstsq(weight * x, weight * y[:, :3], rcond=None)[0].T
    return matrix


def _descended(moving: Tensor, fixed: Tensor) -> Tensor:
    """The displacement (1, 3, D, H, W), in voxels, that lays the labels `moving` onto `fixed` (1, K, D, H, W)."""
    import torch
    import torch.nn.functional as F

    from medfm.losses import FlowLoss
    from medfm.nn.warp import warp

    size = fixed.shape[2:]
    loss, flow = FlowLoss(mse=1.0, smooth=_SMOOTH), torch.zeros(1, 3, *(-(-n // _FINER) for n in size))
    with torch.enable_grad():
        descent = torch.optim.Adam([flow.requires_grad_()], lr=_RATE)
        for coarse, steps in _ROUNDS:
            a, b = (F.avg_pool3d(x, coarse, ceil_mode=True) for x in (moving, fixed))
            for _ in range(steps):
                descent.zero_grad()
                loss(warp(a, _displaced(flow, b.shape[2:], _FINER / coarse)), b, flow).backward()
                descent.step()
    return _displaced(flow.detach(), size, float(_FINER))


def _displaced(flow: Tensor, size: Sequence[int], scale: float) -> Tensor:
    from medfm.nn.warp import exponential, resize_flow

    d, h, w = size
    return resize_flow(exponential(flow, steps=_STEPS), (d, h, w), scale=(scale,) * 3)


@lru_cache(maxsize=1)
def _brain() -> Segmenter:
    from medfm.segmenter import load_segmenter

    return load_segmenter(_MODEL)
