"""What every measurement has: A, its adjoint, a first picture, and the nearest picture that agrees with the data."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from medfm.errors import ConfigError

__all__ = ["Linear", "conjugate_gradient", "residual"]


class Linear(ABC):
    """A linear measurement of x, (B, C, D, H, W), real or complex. The names are deepinv's."""

    @abstractmethod
    def A(self, x: Tensor) -> Tensor:
        """Picture -> noiseless data."""

    @abstractmethod
    def A_adjoint(self, y: Tensor) -> Tensor:
        """Data -> picture, so that <A x, y> = <x, A_adjoint y>."""

    def to(self, device: torch.device) -> Linear:
        """The same measurement of pictures that lie there. Raises ConfigError: it is computed on the CPU only."""
        if device.type != "cpu":
            raise ConfigError(
                f"{type(self).__name__} is computed on the CPU only, and this network looks at the data: train and use "
                "it there, with CUDA_VISIBLE_DEVICES= in front of the command"
            )
        return self

    def start(self, y: Tensor) -> Tensor:
        """The direct reconstruction that others are measured against: zero-filled, filtered back-projected, ..."""
        return self.A_adjoint(y)

    def consistent(self, x: Tensor, y: Tensor, *, weight: float | Tensor | None = None, steps: int = 10) -> Tensor:
        """argmin |x' - x|^2 + weight |A x' - y|^2; None: of all that fit y best, the x' nearest to x.

        Solved by conjugate gradients for the change x' - x, `steps` of them.
        """
        return x + conjugate_gradient(self, y - self.A(x), weight=weight, steps=steps)


def conjugate_gradient(
    operator: Linear, y: Tensor, *, weight: float | Tensor | None = None, steps: int = 30, tolerance: float = 1e-6
) -> Tensor:
    """x with (A*A + 1/weight) x = A* y, from 0; weight None: no regularisation but the early end. Each case apart.

    Raises ValueError for a weight that is not positive.
    """
    if weight is not None and float(weight) <= 0:
        raise ValueError(f"weight is {float(weight)}; a positive one is needed")
    r = operator.A_adjoint(y)
    x, p = torch.zeros_like(r), r
    power = _power(r)
    first = power.clone().clamp(min=1e-30)
    for _ in range(steps):
        if bool((power <= tolerance**2 * first).all()):
            break
        q = operator.A_adjoint(operator.A(p))
        if weight is not None:
            q = q + p / weight
        along = (p.conj() * q).real.flatten(1).sum(1)
        alpha = _as(power / along.clamp(min=1e-30), r)
        x, r = x + alpha * p, r - alpha * q
        new = _power(r)
        p, power = r + _as(new / power.clamp(min=1e-30), r) * p, new
    return x


def residual(operator: Linear, x: Tensor, y: Tensor) -> Tensor:
    """(B,) |A x - y| / |y|: what of the data a picture does not explain."""
    gap = (operator.A(x) - y).flatten(1)
    return gap.norm(dim=1) / y.flatten(1).norm(dim=1).clamp(min=1e-30)


def _power(x: Tensor) -> Tensor:
    return x.abs().square().flatten(1).sum(1)


def _as(values: Tensor, x: Tensor) -> Tensor:
    return values.view(-1, *[1] * (x.ndim - 1))
