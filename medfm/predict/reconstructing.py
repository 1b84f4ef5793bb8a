"""Raw data or a noisy picture to a picture, what of the data it leaves over, how sure it is, and plain warnings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from medfm.errors import ConfigError, DataError
from medfm.progress import counting
from medfm.scan import RawData, Reconstructed, Scan

if TYPE_CHECKING:
    from torch import Tensor

    from medfm.physics.linear import Linear
    from medfm.reconstructor import Reconstructor

__all__ = ["denoise", "fitting", "reconstruct"]

Method = Literal["network", "direct", "sense", "grappa", "wavelet", "tv", "bregman", "least-squares"]
Window = Literal["ramp", "shepp-logan", "cosine", "hann"]
_KSPACE = ("direct", "sense", "grappa", "wavelet", "tv", "bregman")
_SINOGRAM = ("direct", "least-squares")
_STRUCTURE = 6.0  # deviations of smoothed noise above which what is left over is structure


def reconstruct(
    raw: RawData, *, models: Sequence[Reconstructor] = (), method: Method | None = None, samples: int = 0,
    window: Window = "hann", weight: float = 0.002,
) -> Reconstructed:  # fmt: skip
    """A picture of k-space (magnitude) or of a sinogram (HU).

    models: trained networks; several make an ensemble, whose deviation is the uncertainty. samples: with dropout left
    on, for the same. method: default "network" with models; else "wavelet" for k-space (compressed sensing with coil
    maps by ESPIRiT), "direct" for a sinogram (filtered back-projection under `window`). weight: of a sparse prior.

    Raises:
        ConfigError: a method that does not fit the data, or models with one. DataError: data the method cannot take.
    """
    kspace = raw.kind == "kspace"
    chosen = method or ("network" if models else "wavelet" if kspace else "direct")
    allowed = _KSPACE if kspace else _SINOGRAM
    if (chosen == "network") != bool(models) or (chosen != "network" and chosen not in allowed):
        raise ConfigError(f"method {chosen!r} for a {raw.kind}, {len(models)} models; without a model: {allowed}")
    import torch

    if any(m.complex != kspace or m.hounsfield == kspace for m in models):
        raise DataError(f"a {raw.kind} needs a model of its own kind; see the model's `physics`")
    if not raw.data.any():
        raise DataError(f"every number of the {raw.kind} is 0: nothing was measured, or it was written before it was")
    y = torch.from_numpy(raw.data)[None] if kspace else torch.from_numpy(raw.data)[None, None]
    slices = [_slice(raw, y, index, window, models) for index in range(y.shape[2])]
    step = counting(len(slices))
    found, deviations, starts, left, gaps = [], [], [], [], []
    for operator, part in slices:
        start = operator.start(part)
        x, deviation = _one(operator, part, start, raw, chosen, models, samples, weight)
        gap = part - operator.A(x)
        left.append(operator.start(gap))
        gaps.append((_energy(gap), _energy(part - operator.A(start)), _energy(part)))
        found.append(x)
        starts.append(start)
        deviations.append(deviation)
        step()
    x, start, rest = (torch.cat(parts, 2) for parts in (found, starts, left))
    after, before, total = (sum(column) for column in zip(*gaps, strict=True))
    names = " + ".join(m.name or "network" for m in models)
    result = Reconstructed(
        _scan(x, raw), _scan(start, raw), f"network {names}" if models else chosen,
        uncertainty=_spread(deviations, raw), unexplained=_scan(rest, raw, difference=True),
        residual=(after / total) ** 0.5, start_residual=(before / total) ** 0.5,
        filled=_filled(x, raw) if kspace else None,
    )  # fmt: skip
    return replace(result, warnings=_warnings(result, raw, models, rest))


def denoise(scan: Scan, *, models: Sequence[Reconstructor], samples: int = 0) -> Reconstructed:
    """A noisy picture, CT in HU or in another unit, by networks that need no raw data.

    Raises:
        DataError: no model, one that needs the data, or CT for a model of another unit or the other way round.
    """
    import torch

    ct = scan.units == "HU"
    if not models:
        raise DataError(
            f"no model given, and none ships that denoises {'CT in HU' if ct else 'scans that are not CT in HU'}; "
            "train one on pictures (reconstruction/redcnn) and give it"
        )
    if any(m.data or m.complex for m in models):
        raise DataError("denoising needs a model that reads pictures (head direct or wavelet); this one reads raw data")
    if any(m.hounsfield != ct for m in models):
        raise DataError(
            f"the scan is in {scan.units}; the model reads {'HU' if models[0].hounsfield else 'other units'}"
        )
    start = torch.from_numpy(scan.data[:1].astype(np.float32))[None]
    start = start / 1000 + 1 if ct else start
    mm = scan.spacing
    spacing = torch.tensor([[mm[2], mm[1], mm[0]]], dtype=torch.float32)
    found, deviations, step = [], [], counting(start.shape[2])
    for part in start.split(1, 2):  # slice by slice: memory of one
        x, deviation = _ensemble(models, part, None, None, spacing, samples)
        found.append(x)
        deviations.append(deviation)
        step()
    x = torch.cat(found, 2)
    names = " + ".join(m.name or "network" for m in models)
    spread = None if deviations[0] is None else _like(scan, torch.cat([d for d in deviations if d is not None], 2), ct)
    removed = start - x
    result = Reconstructed(
        _like(scan, x, ct, shift=True),
        scan,
        f"network {names}",
        uncertainty=spread,
        unexplained=_like(scan, removed, ct),
    )
    return replace(result, warnings=[*_structure(removed, scan.data.shape[1]), *_unlike(models, mm[0])])


def _slice(
    raw: RawData, y: Tensor, index: int, window: Window, models: Sequence[Reconstructor]
) -> tuple[Linear, Tensor]:
    """The operator of one slice and its data."""
    import torch

    part = y[:, :, index : index + 1]
    if raw.kind == "sinogram":
        from medfm.physics.ct import Projection

        side = raw.size or int(part.shape[3] / 2**0.5)
        trained = [m.acquisition.window for m in models]  # the network has seen this window's noise
        operator = Projection(
            (side, side), pixel=raw.pixel, views=list(raw.angles), fan=raw.fan, window=trained[0] if trained else window
        )
        return operator, part
    from medfm.physics.mri import Cartesian, coil_maps

    mask = torch.from_numpy(raw.mask[index])[None, None, None]
    coils = part.shape[1]
    apart = any(m.acquisition.separate for m in models)
    if wrong := [m for m in models if m.acquisition.separate and m.acquisition.channels != coils]:
        raise DataError(f"{coils} coils; {wrong[0].name or 'the model'} was trained on {wrong[0].acquisition.channels}")
    maps = None if coils == 1 or apart else coil_maps(part[0], calibration=_calibration(raw.mask[index]))[None]
    return Cartesian(mask, maps), part


def _calibration(mask: np.ndarray) -> int:
    """Side of the fully sampled square in the middle, at most 24."""
    h, w = mask.shape
    for half in range(12, 3, -1):
        if mask[h // 2 - half : h // 2 + half, w // 2 - half : w // 2 + half].all():
            return 2 * half
    raise DataError("the middle 8 x 8 of k-space is not sampled in full: coil maps cannot be estimated from it")


def _one(
    operator: Linear, y: Tensor, start: Tensor, raw: RawData, method: Method, models: Sequence[Reconstructor],
    samples: int, weight: float,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """One slice by one method."""
    from medfm.physics.linear import conjugate_gradient

    if method == "direct":
        return start, None
    if method == "least-squares":
        return conjugate_gradient(operator, y, steps=25), None
    if method == "sense":
        return conjugate_gradient(operator, y, steps=30, weight=1e3), None
    if method in ("wavelet", "tv"):
        from medfm.physics.compressed import sparse
        from medfm.physics.mri import Cartesian

        assert isinstance(operator, Cartesian)
        return sparse(operator, y, prior="tv" if method == "tv" else "wavelet", weight=weight), None
    if method == "bregman":
        from medfm.physics.compressed import split_bregman
        from medfm.physics.mri import Cartesian

        assert isinstance(operator, Cartesian)
        apart = split_bregman(Cartesian(operator.mask), y, weight=weight)
        return _combined(apart, operator), None
    if method == "grappa":
        return _filled_in(operator, y), None
    import torch

    from medfm.physics.mri import Cartesian

    spacing = torch.tensor([[(raw.spacing or (1.0, 1.0, 1.0))[i] for i in (2, 1, 0)]])
    if not isinstance(operator, Cartesian) or not _across(operator.mask):
        return _ensemble(models, start, y, operator, spacing, samples)
    turned = Cartesian(operator.mask.mT, None if operator.maps is None else operator.maps.mT)
    x, deviation = _ensemble(models, start.mT, y.mT, turned, spacing[:, [0, 2, 1]], samples)
    return x.mT, None if deviation is None else deviation.mT


def _across(mask: Tensor) -> bool:
    """Whether whole columns were sampled and not whole rows, which is how the networks learn."""
    return bool((mask.all(-2) == mask.any(-2)).all() and not (mask.all(-1) == mask.any(-1)).all())


def _combined(coils: Tensor, operator: Linear) -> Tensor:
    """Coil pictures to the one that the maps make of them."""
    maps = getattr(operator, "maps", None)
    return coils if maps is None else (maps.conj() * coils).sum(1, keepdim=True)


def _filled_in(operator: Linear, y: Tensor) -> Tensor:
    from medfm.physics.mri import inverse_fourier
    from medfm.physics.parallel import grappa

    data = y[0, :, 0]
    rows = (data != 0).any(0).any(1)
    if bool(rows.all()):  # the phase was encoded along the columns
        columns = (data != 0).any(0).any(0)
        full = grappa(data.transpose(1, 2), acceleration=_step(columns)).transpose(1, 2)
    else:
        full = grappa(data, acceleration=_step(rows))
    return _combined(inverse_fourier(full, 2)[None, :, None], operator)


def _step(sampled: Tensor) -> int:
    """Every how many-th row was sampled, outside of the middle. Raises DataError for irregular sampling."""
    gaps = sampled.nonzero()[:, 0].diff()
    step = int(gaps.max()) if len(gaps) else 0
    outside = gaps[gaps > 1]
    if step < 2 or len(outside) < 2 or bool((outside != step).float().mean() > 0.1):
        raise DataError(
            f"GRAPPA needs every n-th row and a full middle; gaps of {sorted(set(gaps.tolist()))} rows found"
        )
    return step


def fitting(raw: RawData) -> list[str]:
    """Names of the shipped models that were trained on raw data like these: one coil, whole lines, about as many."""
    from medfm.reconstructor import unrolled

    if raw.kind != "kspace" or len(raw.data) != 1:
        return []
    mask = raw.mask
    share = float(mask.mean())
    lines = bool((mask.all(1) == mask.any(1)).all() or (mask.all(2) == mask.any(2)).all())
    return [
        name for name, about in unrolled().items()
        if lines and about["kind"] in ("lines", "equispaced") and _near(share, 1 / about["acceleration"])
    ]  # fmt: skip


def _near(share: float, trained: float) -> bool:
    """Whether about as much of k-space was sampled as in training."""
    return 0.7 < share / trained < 1.4


def _ensemble(
    models: Sequence[Reconstructor], start: Tensor, y: Tensor | None, operator: Linear | None, spacing: Tensor,
    samples: int,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """The mean of the models, and their deviation or that of dropout."""
    import torch

    drawn = [m.reconstruct(start, y, operator, spacing, samples=samples) for m in models]
    x = torch.stack([best for best, _ in drawn]).mean(0)
    spreads = [spread for _, spread in drawn if spread is not None]
    if len(models) > 1:
        return x, torch.stack([best.abs() for best, _ in drawn]).std(0)
    return x, spreads[0] if spreads else None


def _energy(y: Tensor) -> float:
    return float(y.abs().double().square().sum())


def _filled(x: Tensor, raw: RawData) -> float:
    """Share of the picture's energy that lies where nothing was measured."""
    import torch

    from medfm.physics.mri import fourier

    mask = torch.from_numpy(raw.mask)[None, None]
    k = fourier(x, 2).abs().square()
    return float((k * ~mask).sum() / k.sum().clamp(min=1e-30))


def _scan(x: Tensor, raw: RawData, *, difference: bool = False) -> Scan:
    """(1, C, D, H, W) as a scan in the raw data's space: magnitude of k-space, HU of a sinogram."""
    if raw.kind == "sinogram":
        array = (x[0, 0] * 1000).numpy() if difference else ((x[0, 0] - 1) * 1000).numpy()
        return Scan.from_array(array.astype(np.float32), spacing=raw.spacing, modality="CT", units="HU")
    array = x[0].abs().square().sum(0).sqrt().numpy()
    spacing = None if raw.affine is not None else raw.spacing
    return Scan.from_array(array.astype(np.float32), affine=raw.affine, spacing=spacing, modality="MR")


def _like(scan: Scan, x: Tensor, ct: bool, *, shift: bool = False) -> Scan:
    array = ((x[0] - float(shift)) * 1000 if ct else x[0]).numpy().astype(np.float32)
    return replace(scan, data=array)


def _spread(deviations: Sequence[Tensor | None], raw: RawData) -> Scan | None:
    import torch

    known = [d for d in deviations if d is not None]
    return _scan(torch.cat(known, 2), raw, difference=True) if known else None


def _warnings(result: Reconstructed, raw: RawData, models: Sequence[Reconstructor], rest: Tensor) -> list[str]:
    found = []
    known = [m.about["residual"] for m in models if "residual" in m.about]
    assert result.residual is not None
    if known and result.residual > 1.5 * max(known) + 0.005:
        found.append(
            f"The picture leaves {result.residual:.1%} of the data unexplained; on the data this model was checked on "
            f"it was {max(known):.1%} or less. It may show what was not measured: compare it with the start."
        )
    if models and raw.kind == "kspace":
        assert result.filled is not None
        if result.residual < 0.005:
            found.append(
                "The network keeps what was measured, so agreement with the data proves nothing about the rest: "
                f"{result.filled:.1%} of the picture's energy lies where nothing was measured."
            )
        share = float(raw.mask.mean())
        wanted = [1 / m.acquisition.acceleration for m in models]
        if not any(_near(share, w) for w in wanted):
            found.append(f"{share:.0%} of k-space was sampled; the model was trained on {wanted[0]:.0%}.")
    if raw.kind == "sinogram" and models:
        found += [*_structure(rest, rest.shape[2]), *_unlike(models, raw.pixel)]
    return found


def _structure(rest: Tensor, slices: int) -> list[str]:
    """A warning where what a picture leaves over, smoothed, stands out of its own noise."""
    import torch

    from medfm.physics.degrade import Blur

    smooth = Blur((0.0, 1.5, 1.5)).A(rest.real if rest.is_complex() else rest)
    middle = smooth.median()
    noise = 1.4826 * (smooth - middle).abs().flatten()[:: 1 + smooth.numel() // 2**22].median().clamp(min=1e-9)
    marked = ((smooth - middle).abs() > _STRUCTURE * noise).float()
    share = float(marked.mean())
    if share < 1e-3:
        return []
    worst = int(torch.argmax(marked.sum((0, 1, 3, 4))))
    return [
        f"Structure, not only noise, was taken away or added in {share:.1%} of the picture, most in slice {worst} of "
        f"{slices} (from 0): look at the unexplained part there before trusting small detail."
    ]


def _unlike(models: Sequence[Reconstructor], pixel: float) -> list[str]:
    trained = [mm for m in models for mm in m.about.get("pixel mm", [])]
    if trained and not any(0.6 < pixel / mm < 1.6 for mm in trained):
        return [
            f"Pixels measure {pixel:.2f} mm; the model was trained on {', '.join(f'{mm:.2f}' for mm in trained)} mm."
        ]
    return []
