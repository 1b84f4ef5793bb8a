"""Every acquisition of the registry: <A x, y> = <x, A* y>, and gradients that go through it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from medfm import config, registry
from medfm.nn.directional import directional_bands, from_bands
from medfm.physics.acquire import Measured
from medfm.physics.linear import Linear, conjugate_gradient

ACQUISITIONS: list[dict[str, Any]] = [
    {"name": "mri"},
    {"name": "mri", "kind": "spokes", "acceleration": 5},
    {"name": "mri", "kind": "points", "ndim": 3, "noise": 0.01},
    {"name": "mri", "kind": "equispaced", "acceleration": 2, "coils": 4, "motion": 2.0},
    {"name": "mri", "coils": 4, "separate": True},
    {"name": "mri", "kind": "radial", "spokes": 24, "coils": 3},
    {"name": "ct", "views": 40},
    {"name": "ct", "views": 60, "fan": [500, 400], "rings": 0.01},
    {"name": "degraded", "noise": 0.1},
    {"name": "degraded", "blur": [0.5, 1, 2]},
    {"name": "degraded", "factor": [2, 2, 1]},
]
NEEDS = {"radial": "sigpy", "coils": "sigpy", "ct": "deepinv"}


def acquired(node: dict[str, Any]) -> Measured:
    for key, package in NEEDS.items():
        if key in node or key in node.values():
            pytest.importorskip(package)
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 1, 4, 24, 20, generator=generator)
    if node["name"] == "ct":
        image = image * 1000 - 500
    measured: Measured = config.build("physics", node)(image, generator)
    return measured


def inner(a: Tensor, b: Tensor) -> Tensor:
    return (a.conj() * b).sum()


def shown(node: dict[str, Any]) -> str:
    return " ".join(str(v) for v in node.values())


def test_every_acquisition_is_here() -> None:
    assert {node["name"] for node in ACQUISITIONS} == set(registry.names("physics"))


@pytest.mark.parametrize("node", ACQUISITIONS, ids=shown)
def test_Ax_y_is_x_Aty(node: dict[str, Any]) -> None:
    x, y, operator = acquired(node)
    u, v = torch.randn_like(x), torch.randn_like(y)
    there, back = inner(operator.A(u), v), inner(u, operator.A_adjoint(v))
    assert (there - back).abs() < 1e-4 * operator.A(u).norm() * v.norm()
    assert operator.A(x).shape == y.shape and operator.start(y).shape == x.shape


@pytest.mark.parametrize("node", ACQUISITIONS, ids=shown)
def test_gradient_of_half_Ax_y_squared_is_At_Ax_y(node: dict[str, Any]) -> None:
    x, y, operator = acquired(node)
    x = x.clone().requires_grad_()
    (0.5 * (operator.A(x) - y).abs().square().sum()).backward()
    assert x.grad is not None
    expected = operator.A_adjoint(operator.A(x.detach()) - y)
    assert (x.grad - expected).norm() < 1e-3 * expected.norm() + 1e-5


@pytest.mark.parametrize("node", ACQUISITIONS, ids=shown)
def test_consistency_never_increases_what_is_left_over(node: dict[str, Any]) -> None:
    x, y, operator = acquired(node)
    other = x + 0.1 * torch.randn_like(x)
    before = (operator.A(other) - y).norm()
    assert (operator.A(operator.consistent(other, y, steps=8)) - y).norm() <= before


def test_closed_form_consistency_is_what_conjugate_gradients_find() -> None:
    x, y, operator = acquired({"name": "mri", "noise": 0.05})
    other = x + 0.3 * torch.randn_like(x)
    for weight in (None, 2.0):
        exact = operator.consistent(other, y, weight=weight)
        found = Linear.consistent(operator, other, y, weight=weight, steps=30)
        assert (exact - found).abs().max() < 1e-5


def test_conjugate_gradients_refuse_a_weight_of_nought() -> None:
    _, y, operator = acquired({"name": "mri"})
    with pytest.raises(ValueError, match="positive"):
        conjugate_gradient(operator, y, weight=0.0)


def test_directional_bands_give_the_picture_back_and_keep_its_energy() -> None:
    x = torch.randn(2, 37, 50)
    bands = directional_bands(x, (8, 4, 2))
    assert bands.shape[1] == 15
    assert (from_bands(bands, (8, 4, 2), (37, 50)) - x).abs().max() < 1e-5
    padded = torch.nn.functional.pad(x[:, None], [16] * 4, mode="reflect")
    assert bands.square().sum() == pytest.approx(float(padded.square().sum()), rel=1e-4)
