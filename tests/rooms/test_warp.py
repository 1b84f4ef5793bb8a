"""Displacement fields: known warps, inverses, volumes; the floor checks of VoxelMorph on synthetic scans."""

import math

import pytest
import torch

from medfm.heads.register import FlowHead
from medfm.losses import FlowLoss
from medfm.nn.warp import exponential, jacobian, resize_flow, warp
from medfm.registrar import Registrar


def smooth(shape: tuple[int, int, int], size: float, seed: int = 0) -> torch.Tensor:
    """A random flow (1, 3, *shape) without creases, of at most about `size` voxels."""
    knots = torch.randn(1, 3, 4, 4, 4, generator=torch.Generator().manual_seed(seed))
    flow = torch.nn.functional.interpolate(knots, (24, 24, 24), mode="trilinear")
    for _ in range(3):
        flow = torch.nn.functional.avg_pool3d(flow, 7, 1, 3)
    flow = torch.nn.functional.interpolate(flow, shape, mode="trilinear")
    return flow / flow.abs().max() * size


def blobs(shape: tuple[int, int, int], seed: int = 0) -> torch.Tensor:
    """A picture (1, 1, *shape) with structure everywhere."""
    noise = torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(seed))
    for _ in range(3):
        noise = torch.nn.functional.avg_pool3d(noise, [min(n, 5) for n in shape], 1, [min(n, 5) // 2 for n in shape])
    return noise / noise.std()


def small(**settings: object) -> Registrar:
    arguments = {
        "encoder": {"name": "conv", "inputs": 2, "channels": [4, 8, 8], "convs": 1},
        "head": {"level": 1, "steps": 7},
        "prepare": {"intensity": "zscore"},
        **settings,
    }
    torch.manual_seed(0)
    return Registrar(**arguments).eval()


def test_a_shift_by_whole_voxels_moves_the_picture():
    x = blobs((8, 9, 10))
    u = torch.zeros(1, 3, 8, 9, 10)
    u[:, 2] = 2
    assert torch.allclose(warp(x, u)[..., :-2], x[..., 2:], atol=1e-5)
    assert torch.equal(warp(x, torch.zeros_like(u)).round(decimals=4), x.round(decimals=4))


def test_pictures_of_one_slice_are_warped_in_their_plane():
    x = blobs((1, 12, 12))
    u = torch.zeros(1, 3, 1, 12, 12)
    u[:, 1] = 1
    assert torch.allclose(warp(x, u)[..., :-1, :], x[..., 1:, :], atol=1e-5)
    assert exponential(u).shape == u.shape
    assert jacobian(u).allclose(torch.ones(1, 1, 12, 12))


@pytest.mark.parametrize("steps", [4, 7])
def test_going_back_along_the_velocity_undoes_the_way(steps):
    v = smooth((20, 22, 24), 4.0)
    there, back = exponential(v, steps=steps), exponential(-v, steps=steps)
    left = (there + warp(back, there))[..., 5:-5, 5:-5, 5:-5]
    assert there.abs().max() > 2
    assert left.norm(dim=1).max() < 0.25  # floor of 0.5 voxels


def test_the_integral_of_a_constant_velocity_is_itself_and_of_a_turn_a_turn():
    v = torch.full((1, 3, 16, 16, 16), 0.5)
    assert exponential(v).allclose(v, atol=1e-4)
    axis = torch.arange(33.0) - 16
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    angle = math.pi / 6
    v = torch.stack([torch.zeros_like(y), -angle * x, angle * y])[None, :, None].expand(1, 3, 5, 33, 33)
    u = exponential(v)[0, :, 2]
    turned = torch.stack([math.cos(angle) * y - math.sin(angle) * x - y, math.sin(angle) * y + math.cos(angle) * x - x])
    inside = y.square() + x.square() < 12**2
    assert (u[1:] - turned)[:, inside].abs().max() < 0.05


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_mirrored_velocity_leads_to_the_mirrored_picture(axis):
    x, v = blobs((12, 14, 16)), smooth((12, 14, 16), 3.0)
    sign = torch.ones(1, 3, 1, 1, 1)
    sign[:, axis] = -1
    mirrored = v.flip(2 + axis) * sign
    there = warp(x, exponential(v)).flip(2 + axis)
    assert torch.allclose(warp(x.flip(2 + axis), exponential(mirrored)), there, atol=1e-3)
    assert torch.allclose(jacobian(exponential(mirrored)), jacobian(exponential(v)).flip(1 + axis), atol=1e-4)


def test_jacobian_of_a_zoom_and_of_a_fold():
    grid = torch.stack(torch.meshgrid(*[torch.arange(8.0)] * 3, indexing="ij"))[None]
    assert jacobian(0.2 * grid).allclose(torch.full((1, 8, 8, 8), 1.2**3), atol=1e-4)
    fold = torch.zeros(1, 3, 8, 8, 8)
    fold[:, 0] = -2 * grid[:, 0]
    assert (jacobian(fold) <= 0).all()


def test_a_velocity_does_not_fold_where_the_same_displacement_does():
    v = smooth((24, 24, 24), 12.0)
    assert (jacobian(v) <= 0).any()
    assert not (jacobian(exponential(v)) <= 0).any()


def test_a_flow_keeps_its_millimetres_on_a_finer_grid():
    coarse = torch.ones(1, 3, 4, 4, 4)
    fine = resize_flow(coarse, (7, 8, 8), scale=(2.0, 2.0, 1.0))
    assert fine.shape == (1, 3, 7, 8, 4)
    assert fine[0, :, 0, 0, 0].tolist() == [2, 2, 1]


def test_a_network_starts_at_the_identity():
    u = small().displacement(blobs((17, 20, 23)), blobs((17, 20, 23), 1), spacing=torch.ones(1, 3))
    assert u.shape == (1, 3, 17, 20, 23)
    assert u.abs().max() < 0.1


def test_exchanging_the_scans_inverts_a_symmetric_registration():
    model = small(symmetric=True)
    torch.nn.init.normal_(model.head.decoder.logits[0].weight, std=0.2)
    a, b = blobs((16, 16, 16)), blobs((16, 16, 16), 1)
    with torch.no_grad():
        there, back = model(a, b), model(b, a)
    assert there.abs().max() > 0.1
    assert torch.allclose(there, -back, atol=1e-5)
    assert model.displacement(a, a, spacing=torch.ones(1, 3)).abs().max() == 0


def test_a_known_warp_is_recovered_by_optimising_a_pair():
    shape = (24, 24, 24)
    truth = exponential(smooth(shape, 2.5))
    moving = blobs(shape)
    fixed = warp(moving, truth)
    u = small().displacement(moving, fixed, spacing=torch.ones(1, 3), optimise=60, loss=FlowLoss(mse=1.0, smooth=0.01))
    inside = (slice(None), slice(None), *[slice(4, -4)] * 3)
    before, after = truth[inside].norm(dim=1).mean(), (u - truth)[inside].norm(dim=1).mean()
    assert after < 0.35 * before
    assert not (jacobian(u) <= 0).any()


def test_flow_heads_need_a_level_below():
    with pytest.raises(Exception, match="coarser one must be left"):
        FlowHead((4, 8), ((1, 1, 1), (2, 2, 2)), level=1)
    with pytest.raises(Exception, match="symmetric needs a velocity"):
        small(symmetric=True, head={"level": 1, "steps": 0})


@pytest.mark.parametrize("kind", ["ncc", "mse"])
def test_losses_see_likeness_and_roughness(kind):
    x, y = blobs((12, 12, 12)), blobs((12, 12, 12), 1)
    still = torch.zeros(1, 3, 6, 6, 6)
    loss = FlowLoss(**{kind: 1.0}, smooth=1.0)
    assert loss(x, x, still) < loss(x, y, still)
    assert loss(x, x, smooth((6, 6, 6), 2.0)) > loss(x, x, still)
    assert loss(x[:, :, :1], x[:, :, :1], still[:, :, :1]) < 0.1
