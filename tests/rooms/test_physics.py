"""Reconstructions without training: exact closed forms, the gains their papers rest on, other packages as oracles."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from medfm.errors import DataError
from medfm.physics.ct import Projection, from_hu, measured, to_hu
from medfm.physics.degrade import moved, ringed
from medfm.physics.linear import conjugate_gradient
from medfm.physics.mri import (
    Cartesian,
    birdcage,
    coil_maps,
    fourier,
    inverse_fourier,
    sampling_mask,
    smooth_phase,
)
from medfm.physics.parallel import grappa, noise_gain, root_sum_of_squares, unfold_sense

SIDE = 128


@pytest.fixture(scope="module")
def anatomy() -> Tensor:
    """(128, 128) in [0, 1]: an axial slice of the shipped brain scan."""
    from medfm import assets
    from medfm.scan import Scan

    scan = Scan.read(assets.root() / "apps" / "chat" / "demo" / "brain_t1.nii.gz")
    array = scan.slices("axial")[0]
    x = torch.from_numpy(array[0, array.shape[1] // 2].astype(np.float32))[None, None]
    x = torch.nn.functional.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True)[0, 0]
    return (x / torch.quantile(x, 0.999)).clamp(0, 1)


def psnr(x: Tensor, truth: Tensor) -> float:
    return float(-10 * torch.log10((x.abs() - truth.abs()).square().mean()))


def acquired(anatomy: Tensor, acceleration: int) -> tuple[Tensor, Tensor, Tensor]:
    """k-space (8, H, W) with 24 full rows in the middle and noise, its mask, the maps."""
    pytest.importorskip("sigpy")
    generator = torch.Generator().manual_seed(0)
    x = anatomy * smooth_phase((SIDE, SIDE), strength=0.5, generator=generator)
    maps = birdcage(8, (SIDE, SIDE))
    mask = sampling_mask((SIDE, SIDE), kind="equispaced", acceleration=acceleration, centre=24 / SIDE)
    k = fourier(x[None] * maps, 2)
    return (k + 0.002 * torch.randn(k.shape, dtype=k.dtype, generator=generator)) * mask, mask, maps


@pytest.mark.parametrize(("acceleration", "gain"), [(2, 12), (4, 4)])
def test_sense_by_conjugate_gradients(anatomy: Tensor, acceleration: int, gain: float) -> None:
    k, mask, _ = acquired(anatomy, acceleration)
    start = psnr(root_sum_of_squares(inverse_fourier(k, 2), dim=0)[0], anatomy)
    maps = coil_maps(k[:, None])
    operator = Cartesian(mask[None, None, None], maps[None])
    found = conjugate_gradient(operator, k[None, :, None], weight=1e3)[0, 0, 0]
    assert psnr(found, anatomy) > start + gain
    from sigpy.mri.app import SenseRecon

    app = SenseRecon(
        k.numpy(), maps[:, 0].numpy(), lamda=1e-3, weights=mask[None].float().numpy(), max_iter=30, show_pbar=False
    )
    assert psnr(found, anatomy) == pytest.approx(psnr(torch.from_numpy(app.run()), anatomy), abs=0.3)


@pytest.mark.parametrize("acceleration", [2, 4])
@pytest.mark.parametrize("first", [0, 1])
def test_unfolding_is_exact_without_noise(anatomy: Tensor, acceleration: int, first: int) -> None:
    pytest.importorskip("sigpy")
    maps = birdcage(8, (SIDE, SIDE)).to(torch.complex128)
    x = anatomy.double() * smooth_phase((SIDE, SIDE), strength=0.5, generator=torch.Generator().manual_seed(1))
    k = torch.zeros(8, SIDE, SIDE, dtype=torch.complex128)
    k[:, first::acceleration] = fourier(x[None] * maps, 2)[:, first::acceleration]
    found = unfold_sense(k, maps, acceleration=acceleration)[0]
    assert (found - x).norm() < 1e-10 * x.norm()


def test_noise_gain_is_what_the_noise_of_unfolding_shows() -> None:
    pytest.importorskip("sigpy")
    maps = birdcage(8, (32, 32)).to(torch.complex128)
    generator = torch.Generator().manual_seed(0)
    drawn = []
    for _ in range(600):
        k = torch.zeros(8, 32, 32, dtype=torch.complex128)
        k[:, ::2] = torch.randn(8, 16, 32, dtype=torch.complex128, generator=generator)
        drawn.append(unfold_sense(k, maps, acceleration=2)[0])
    full = 1 / maps.abs().square().sum(0).sqrt()  # the deviation with all rows
    shown = torch.stack(drawn).abs().square().mean(0).sqrt() / full / 2**0.5
    expected = noise_gain(maps, acceleration=2)
    assert float(expected.min()) >= 1 - 1e-9
    assert float((shown / expected).mean()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("acceleration", "gain"), [(2, 12), (3, 10), (4, 6)])
def test_grappa_fills_in_what_is_missing_and_keeps_what_is_not(anatomy: Tensor, acceleration: int, gain: float) -> None:
    k, mask, _ = acquired(anatomy, acceleration)
    full = grappa(k, acceleration=acceleration)
    assert float(((full - k) * mask).abs().max()) == 0.0
    before, after = (psnr(root_sum_of_squares(inverse_fourier(part, 2), dim=0)[0], anatomy) for part in (k, full))
    assert after > before + gain


def test_parallel_imaging_says_what_it_lacks(anatomy: Tensor) -> None:
    k, _, maps = acquired(anatomy, 4)
    k[:, 56:72:4] = 0
    with pytest.raises(DataError, match="sampled in full in the middle"):
        grappa(k, acceleration=4, rows=8)
    with pytest.raises(DataError, match="R must divide"):
        unfold_sense(k, maps, acceleration=3)


def test_sparse_priors_need_incoherent_sampling(anatomy: Tensor) -> None:
    pytest.importorskip("sigpy")
    from medfm.physics.compressed import sparse, split_bregman, total_variation

    scores = {}
    for kind in ("points", "equispaced"):
        mask = sampling_mask(
            (SIDE, SIDE), kind=kind, acceleration=4, centre=0.12, generator=torch.Generator().manual_seed(0)
        )
        operator = Cartesian(mask[None, None, None])
        y = operator.A(anatomy[None, None, None].to(torch.complex64))
        scores[kind, "start"] = psnr(operator.start(y)[0, 0, 0], anatomy)
        scores[kind, "wavelet"] = psnr(sparse(operator, y, weight=0.003)[0, 0, 0], anatomy)
        record: list[float] = []
        tv = split_bregman(operator, y, weight=0.001, record=record)
        scores[kind, "tv"] = psnr(tv[0, 0, 0], anatomy)
        assert all(b <= a * (1 + 1e-4) for a, b in pairwise(record[5:]))  # monotone after it 5
        if kind == "points":
            reference = sparse(operator, y, prior="tv", weight=0.001, steps=800)
            lam = 0.001 * operator.start(y).abs().max()
            objective = 0.5 * (operator.A(reference) - y).abs().square().sum() + lam * total_variation(reference).sum()
            assert record[-1] < float(objective) * 1.005
    assert scores["points", "wavelet"] > scores["points", "start"] + 2
    assert scores["points", "tv"] > scores["points", "start"] + 4
    assert scores["equispaced", "tv"] < scores["points", "tv"] - 2


def test_k_space_agrees_with_deepinv() -> None:
    physics = pytest.importorskip("deepinv").physics
    maps = birdcage(4, (24, 20))
    mask = sampling_mask((24, 20), generator=torch.Generator().manual_seed(0))
    x = torch.randn(1, 1, 1, 24, 20, dtype=torch.complex64)
    ours = Cartesian(mask[None, None, None], maps[None, :, None]).A(x)[:, :, 0]
    theirs = physics.MultiCoilMRI(mask=mask.float()[None, None], coil_maps=maps[None], img_size=(24, 20))
    y = theirs.A(torch.view_as_real(x[:, 0, 0]).movedim(-1, 1))
    assert (torch.complex(y[:, 0], y[:, 1]) - ours).abs().max() < 1e-4


@pytest.mark.parametrize("fan", [None, (500.0, 400.0)], ids=["parallel", "fan"])
def test_filtered_back_projection_of_a_disk_is_its_attenuation(fan: tuple[float, float] | None) -> None:
    pytest.importorskip("deepinv")
    r = torch.arange(96) - 47.5
    far = (r[:, None].square() + r.square()).sqrt()
    spot = ((r[:, None] - 10).square() + (r + 8).square()).sqrt()  # not in the middle: a wrong turn would show
    x = ((far < 30).float() + 0.5 * (spot < 6))[None, None, None]
    for window in ("ramp", "hann"):
        operator = Projection((96, 96), pixel=2.0, views=360 if fan else 180, fan=fan, window=window)
        found = operator.start(operator.A(x))[0, 0, 0]
        assert float(found[(far < 25) & (spot > 10)].mean()) == pytest.approx(1.0, abs=0.01)
        assert float(found[spot < 3].mean()) == pytest.approx(1.5, abs=0.03)
    unfiltered = operator.A_adjoint(operator.A(x))[0, 0, 0]
    unfiltered = unfiltered * (x.sum() / unfiltered.sum())
    assert psnr(found, x[0, 0, 0]) > psnr(unfiltered, x[0, 0, 0]) + 8


def test_noise_of_a_dose_falls_with_its_root() -> None:
    lines = torch.full((1, 1, 1, 200, 200), 2.0)
    generator = torch.Generator().manual_seed(0)
    few, many = (measured(lines, photons=n, generator=generator) - lines for n in (2e3, 2e5))
    assert float(few.std() / many.std()) == pytest.approx(10, rel=0.05)
    assert float(many.std()) == pytest.approx((np.exp(2) / 2e5) ** 0.5, rel=0.05)
    assert torch.equal(to_hu(from_hu(torch.tensor([-1000.0, 0, 500]))), torch.tensor([-1000.0, 0, 500]))


def test_rings_are_of_cells_and_motion_is_of_late_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    change = ringed(torch.zeros(1, 1, 1, 30, 12), deviation=0.1, generator=generator)
    assert torch.equal(change, change[..., :1].expand_as(change)) and float(change.std()) > 0.05
    k = torch.randn(24, 20, dtype=torch.complex64)
    after = moved(k, voxels=3.0, share=0.25, generator=generator)
    assert torch.allclose(after[:18], k[:18]) and not torch.allclose(after[18:], k[18:])
    assert torch.allclose(after.abs(), k.abs(), atol=1e-5)
