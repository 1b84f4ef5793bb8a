"""Compressed sensing without training: wavelet and total-variation priors by sigpy, and split Bregman."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from medfm.physics.mri import Cartesian, Radial, fourier, inverse_fourier

if TYPE_CHECKING:
    import numpy as np

__all__ = ["sparse", "split_bregman", "total_variation"]


def sparse(
    operator: Cartesian | Radial, y: Tensor, *, prior: Literal["wavelet", "tv"] = "wavelet", weight: float = 0.005,
    steps: int = 100,
) -> Tensor:  # fmt: skip
    """argmin 1/2 |A x - y|^2 + weight |Psi x|_1, Psi the db4 wavelet transform or the gradient (Lustig et al. 2007).

    Slice by slice, by sigpy. weight: relative to the largest value of the zero-filled picture.
    """
    from sigpy.mri.app import L1WaveletRecon, TotalVariationRecon

    solver = L1WaveletRecon if prior == "wavelet" else TotalVariationRecon
    scale = float(operator.start(y).abs().max())
    cases = []
    for b in range(len(y)):
        slices = []
        for d in range(y.shape[2]):
            data, maps, coordinates, sampled = _slice(operator, y, b, d)
            found = []
            for coil in range(1 if operator.maps is not None else len(data)):
                part = data if operator.maps is not None else data[coil : coil + 1]
                app = solver(
                    part, maps, weight * scale, weights=sampled, coord=coordinates, max_iter=steps, show_pbar=False
                )  # fmt: skip
                found.append(torch.from_numpy(app.run()))
            slices.append(torch.stack(found))
        cases.append(torch.stack(slices, 1))
    return torch.stack(cases).to(y.dtype)


def _slice(
    operator: Cartesian | Radial, y: Tensor, b: int, d: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Data and maps of one slice for sigpy, and what was sampled: points off the grid, or a mask on it."""
    import numpy as np

    data = y[b, :, d].numpy()
    size = operator.size if isinstance(operator, Radial) else (y.shape[3], y.shape[4])
    if operator.maps is None:
        maps = np.ones((1, *size), dtype=np.complex64)
    else:
        maps = operator.maps[b % len(operator.maps), :, d % operator.maps.shape[2]].numpy()
    if isinstance(operator, Radial):
        return data, maps, operator.coordinates, None
    mask = operator.mask.expand(len(y), 1, y.shape[2], *size)[b, 0, d].numpy()
    return data, maps, None, mask[None].astype(np.float32)


def total_variation(x: Tensor) -> Tensor:
    """(B,) sum of the moduli of the differences along H and W, each apart, with the edges joined."""
    return sum((x - x.roll(1, axis)).abs().flatten(1).sum(1) for axis in (-2, -1))  # type: ignore[return-value]


def split_bregman(
    operator: Cartesian, y: Tensor, *, weight: float = 0.005, penalty: float | None = None, steps: int = 50,
    inner: int = 1, record: list[float] | None = None,
) -> Tensor:  # fmt: skip
    """argmin 1/2 |A x - y|^2 + weight |grad x|_1 by the split Bregman method (Goldstein & Osher, SIAM J. Imaging 2009).

    d = grad x is split off; x has a closed form in k-space (one coil, or each coil alone), d is shrunk, and the Bregman
    variable takes what they differ by. weight: relative to the largest value of the zero-filled picture. penalty: of
    the split. record: gets the objective after every step.

    Raises ValueError for an operator with coil maps, for which the update of x is not diagonal.
    """
    if operator.maps is not None:
        raise ValueError("split_bregman takes an operator without coil maps; reconstruct each coil, or use `sparse`")
    start = operator.start(y)
    scale = start.abs().amax()
    lam, mu = weight * scale, penalty or 0.1
    laplacian = _laplacian(start.shape[-2], start.shape[-1])
    x = start
    d = [torch.zeros_like(x) for _ in range(2)]
    b = [torch.zeros_like(x) for _ in range(2)]
    for _ in range(steps):
        for _ in range(inner):
            back = _divergence(d[0] - b[0], -2) + _divergence(d[1] - b[1], -1)
            k = (y * operator.mask + mu * fourier(back, 2)) / (operator.mask + mu * laplacian).clamp(min=1e-6)
            x = inverse_fourier(k, 2)
            gradients = [x - x.roll(1, axis) for axis in (-2, -1)]
            d = [_shrunk(g + u, lam / mu) for g, u in zip(gradients, b, strict=True)]
        b = [u + g - v for u, g, v in zip(b, gradients, d, strict=True)]
        if record is not None:
            fit = 0.5 * (operator.A(x) - y).abs().square().sum()
            record.append(float(fit + lam * total_variation(x).sum()))
    return x


def _divergence(x: Tensor, axis: int) -> Tensor:
    """The adjoint of the difference along an axis."""
    return x - x.roll(-1, axis)


def _laplacian(rows: int, columns: int) -> Tensor:
    """Eigenvalues of the differences' normal operator, in the order of `fourier`."""
    h = 2 - 2 * torch.cos(2 * torch.pi * (torch.arange(rows) - rows // 2) / rows)
    w = 2 - 2 * torch.cos(2 * torch.pi * (torch.arange(columns) - columns // 2) / columns)
    return h[:, None] + w[None]


def _shrunk(x: Tensor, by: Tensor) -> Tensor:
    """Soft threshold of the modulus."""
    size = x.abs()
    return x * ((size - by).clamp(min=0) / size.clamp(min=1e-12))
