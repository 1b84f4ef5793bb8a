"""A critic of pictures for adversarial training: six convolutions and two dense layers, no sigmoid (WGAN-VGG)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medfm.nn.slices import fold

__all__ = ["Critic", "gradient_penalty"]


class Critic(nn.Module):
    """Yang et al., IEEE TMI 37:1348, 2018: widths (1, 1, 2, 2, 4, 4) x `width` (64 there), every second one strides.

    patch: side of the square pictures it reads, a multiple of 8. dense: units before the score (1024 there).
    """

    def __init__(self, *, patch: int = 64, width: int = 64, dense: int = 1024, channels: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        entering = channels
        for index, factor in enumerate((1, 1, 2, 2, 4, 4)):
            stride = 1 + index % 2
            layers += [nn.Conv2d(entering, factor * width, 3, stride, 1), nn.LeakyReLU(0.2)]
            entering = factor * width
        cells = entering * (patch // 8) ** 2
        self.layers = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(cells, dense), nn.LeakyReLU(0.2), nn.Linear(dense, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B D, 1): the higher, the more like the pictures it was shown as real."""
        score: Tensor = self.layers(fold(x))
        return score


def gradient_penalty(critic: nn.Module, real: Tensor, made: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """WGAN-GP (Gulrajani et al., NeurIPS 2017): mean (|gradient| - 1)^2 between real and made, and mean |gradient|.

    share: (B, 1, 1, 1, 1) in [0, 1], where between the two.
    """
    between = (share * real + (1 - share) * made).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    size = gradient.flatten(1).norm(dim=1)
    return (size - 1).square().mean(), size.detach().mean()
