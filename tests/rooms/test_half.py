"""Half precision: the same gradients as in float32, up to its rounding, whatever lay in memory before."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medfm.nn import half

SHALLOW = [  # of these, oneDNN leaves parts of the kernel's gradient unwritten in bfloat16
    (nn.Conv3d(32, 32, 3, padding=1, bias=False), (2, 8, 8)),
    (nn.Conv3d(32, 32, 5, padding=2), (4, 8, 8)),
    (nn.Conv3d(32, 32, 5, padding=2), (8, 1, 8)),
    (nn.ConvTranspose3d(32, 32, 3, padding=1), (2, 8, 8)),
]
DEEP = [(nn.Conv3d(32, 32, 3, padding=1), (4, 8, 8)), (nn.ConvTranspose3d(32, 32, 2, stride=2), (2, 4, 4))]


def litter() -> None:
    """Leaves NaN in memory that the next tensors are laid into."""
    del [torch.full((4**power,), torch.nan) for power in range(3, 11) for _ in range(6)][:]


@pytest.mark.parametrize(("layer", "size"), SHALLOW + DEEP)
def test_gradients_are_those_of_float32(
    layer: nn.Module, size: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(half, "_computes_half", lambda: True)
    x = torch.randn(1, 32, *size, generator=torch.Generator().manual_seed(0))

    def gradients(*, wanted: bool) -> list[torch.Tensor]:
        layer.zero_grad()
        litter()
        with half.halved("cpu", wanted=wanted):
            y = layer(x)
        litter()
        y.float().square().mean().backward()
        return [p.grad.clone() for p in layer.parameters() if p.grad is not None]

    for whole, halved in zip(gradients(wanted=False), gradients(wanted=True), strict=True):
        torch.testing.assert_close(halved, whole, rtol=0, atol=0.03 * float(whole.abs().max()))


def test_convolutions_that_it_can_do_are_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half, "_computes_half", lambda: True)
    with half.halved("cpu"):
        kinds = {layer(torch.zeros(1, 32, *size)).dtype for layer, size in DEEP}
    assert kinds == {torch.bfloat16}
