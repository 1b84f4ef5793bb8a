"""Pictures that no scanner took: one kind of scan as another, or slices from noise; marked as what they are."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from medfm.errors import ConfigError
from medfm.scan import Scan

if TYPE_CHECKING:
    from torch import Tensor

    from medfm.synthesizer import Sampler, Translator

__all__ = ["synthesize"]


def synthesize(
    model: Translator | Sampler, scan: Scan | None = None, *, back: bool = False, count: int = 8, seed: int = 0
) -> Scan:
    """With a `Translator`, `scan` slice by slice as its other kind (`back`: from the second to the first), on the
    scan's own grid. With a `Sampler`, `count` slices from noise; or, of a `scan`, how far each voxel is from what the
    model makes of the scan with noise on it, mean of four draws: high where it looks like nothing that was learned.

    Raises ConfigError: a translator without a scan, or `back` of a sampler.
    """
    import torch

    from medfm.synthesizer import Sampler

    generator = torch.Generator().manual_seed(seed)
    if isinstance(model, Sampler):
        if back:
            raise ConfigError("a model that makes slices from noise has no way back")
        if scan is None:
            return _scan(model.sample(count, generator)[:, 0], hounsfield=model.hounsfield)
        x = _fitted(scan, model.size, model.hounsfield)
        draws = [(model.healed(x, generator) - x).abs() for _ in range(4)]
        return replace(scan, data=_onto(torch.stack(draws).mean(0) / 2, scan), units="a.u.", modality="SYNTHETIC")
    if scan is None:
        raise ConfigError("this model translates: give it a scan")
    taken, given = model.hounsfield[::-1] if back else model.hounsfield
    with torch.inference_mode():
        slices = [model(part.to(model.device), back=back).cpu() for part in _fitted(scan, model.size, taken).split(1)]
    made = _onto(torch.cat(slices), scan)
    return replace(
        scan, data=made * 1000 if given else (made + 1) / 2, units="HU" if given else "a.u.", modality="SYNTHETIC"
    )


def _fitted(scan: Scan, size: int, hounsfield: bool) -> Tensor:
    """(D, 1, size, size) in [-1, 1], as training reads slices."""
    from medfm.data.slices import fitted, signed

    if hounsfield and scan.units != "HU":
        raise ConfigError(f"the scan is in {scan.units}; this model reads HU")
    volume, _ = fitted(scan.data[:1].astype(np.float32), size, 1.0, hounsfield=hounsfield)
    return signed(volume, hounsfield=hounsfield).transpose(0, 1)


def _onto(x: Tensor, scan: Scan) -> np.ndarray:
    """(D, 1, S, S) -> (1, D, H, W) of the scan, its margins taken off."""
    import torch.nn.functional as F

    h, w = scan.data.shape[2:]
    scale = x.shape[-1] / max(h, w)
    new = (max(1, round(h * scale)), max(1, round(w * scale)))
    top, left = (x.shape[-1] - new[0]) // 2, (x.shape[-1] - new[1]) // 2
    inner = x[..., top : top + new[0], left : left + new[1]]
    done: np.ndarray = F.interpolate(inner, (h, w), mode="bilinear", align_corners=False).transpose(0, 1).numpy()
    return done


def _scan(x: Tensor, *, hounsfield: bool) -> Scan:
    values = x * 1000 if hounsfield else (x + 1) / 2
    return Scan.from_array(values.numpy(), modality="SYNTHETIC", units="HU" if hounsfield else None)
