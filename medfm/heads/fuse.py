"""Two views of one patient joined: deep canonical correlation, and a multimodal deep Boltzmann machine."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm.errors import ShapeError

__all__ = ["DeepCCA", "MultimodalDBM", "total_correlation"]


def total_correlation(a: Tensor, b: Tensor, *, ridge: float = 1e-3) -> Tensor:
    """Sum of the canonical correlations of (N, A) and (N, B): the trace norm of S11^-1/2 S12 S22^-1/2 (Andrew et al.,
    ICML 2013), where `ridge` is added to the variances. Raises ShapeError for rows that do not pair."""
    if len(a) != len(b) or len(a) < 2:
        raise ShapeError(f"found {len(a)} and {len(b)} rows; expected the same number of them, two at least")
    a, b = a - a.mean(0), b - b.mean(0)
    n = len(a) - 1
    whitened = _root(a.T @ a / n, ridge) @ (a.T @ b / n) @ _root(b.T @ b / n, ridge)
    total: Tensor = torch.linalg.svdvals(whitened).sum()
    return total


def _root(s: Tensor, ridge: float) -> Tensor:
    values, vectors = torch.linalg.eigh(s + ridge * torch.eye(len(s), dtype=s.dtype, device=s.device))
    return vectors @ torch.diag(values.clamp(min=1e-9).rsqrt()) @ vectors.T


class DeepCCA(nn.Module):
    """Two networks whose outputs are as correlated as they can be made (Andrew et al., ICML 2013).

    Args:
        widths: of the two views. hidden: of the layers between. joint: of both outputs.
    """

    def __init__(self, widths: Sequence[int], *, hidden: Sequence[int] = (64, 64), joint: int = 4) -> None:
        super().__init__()
        self.nets = nn.ModuleList(_layers([width, *hidden, joint]) for width in widths)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """(N, A), (N, B) -> (N, joint) twice."""
        one, other = self.nets
        return one(a), other(b)

    def fit(self, a: Tensor, b: Tensor, *, steps: int = 300, rate: float = 3e-3, ridge: float = 1e-3) -> None:
        """All rows at once, as the correlation is one of all of them."""
        optimizer = torch.optim.Adam(self.parameters(), rate, weight_decay=1e-4)
        for _ in range(steps):
            optimizer.zero_grad()
            (-total_correlation(*self(a, b), ridge=ridge)).backward()
            optimizer.step()


def _layers(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for seen, out in pairwise(widths):
        layers += [nn.Linear(seen, out), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class MultimodalDBM(nn.Module):
    """A Gaussian-binary machine for each view and one binary layer above both (Suk et al. 2014; Srivastava &
    Salakhutdinov, JMLR 2014): contrastive divergence layer by layer, then mean field over all of them.

    A view that was not taken is inferred from the other through the joint layer. Views are to be standardised.

    Args:
        widths: of the views. hidden: of the layer above each. joint: of the one above both.
    """

    def __init__(self, widths: Sequence[int], *, hidden: int = 32, joint: int = 32) -> None:
        super().__init__()
        self.hidden = hidden
        self.first = nn.ParameterList(nn.Parameter(0.05 * torch.randn(w, hidden)) for w in widths)
        self.low = nn.ParameterList(nn.Parameter(torch.zeros(w)) for w in widths)
        self.middle = nn.ParameterList(nn.Parameter(torch.zeros(hidden)) for _ in widths)
        self.second = nn.ParameterList(nn.Parameter(0.05 * torch.randn(hidden, joint)) for _ in widths)
        self.top = nn.Parameter(torch.zeros(joint))

    @torch.no_grad()
    def fit(self, views: Sequence[Tensor], *, steps: int = 400, rate: float = 0.02, generator: torch.Generator) -> None:
        """Layer-wise pre-training by one step of contrastive divergence (Hinton 2002). In both layers the way up is
        taken twice as strong, since it lacks what will come from above (Salakhutdinov & Hinton 2009)."""
        for view, w, low, middle in zip(views, self.first, self.low, self.middle, strict=True):
            for _ in range(steps):
                rows = view[torch.randint(len(view), (64,), generator=generator)]
                up = torch.sigmoid(2 * rows @ w + middle)
                down = torch.bernoulli(up, generator=generator) @ w.T + low
                again = torch.sigmoid(2 * down @ w + middle)
                w += rate * (rows.T @ up - down.T @ again) / len(rows)
                low += rate * (rows - down).mean(0)
                middle += rate * (up - again).mean(0)
        for _ in range(steps):
            chosen = torch.randint(len(views[0]), (64,), generator=generator)
            units = [
                torch.sigmoid(2 * v[chosen] @ w + m) for v, w, m in zip(views, self.first, self.middle, strict=True)
            ]
            up = torch.sigmoid(sum(2 * h @ w for h, w in zip(units, self.second, strict=True)) + self.top)
            state = torch.bernoulli(up, generator=generator)
            down = [torch.sigmoid(state @ w.T + m) for w, m in zip(self.second, self.middle, strict=True)]
            again = torch.sigmoid(sum(2 * h @ w for h, w in zip(down, self.second, strict=True)) + self.top)
            for h, d, w, m in zip(units, down, self.second, self.middle, strict=True):
                w += rate * (h.T @ up - d.T @ again) / len(h)
                m += rate * (h - d).mean(0)
            self.top.add_(rate * (up - again).mean(0))

    @torch.no_grad()
    def joint(self, views: Sequence[Tensor | None], *, rounds: int = 20) -> tuple[Tensor, list[Tensor]]:
        """Mean field: the joint layer (N, joint), and each view (N, width) as the machine sees it; None for a view that
        was not taken, which is then inferred."""
        given = next((v for v in views if v is not None), None)
        if given is None:
            raise ShapeError("no view was given; expected at least one")
        units = [torch.full((len(given), self.hidden), 0.5) for _ in views]
        shown = [
            v if v is not None else torch.zeros(len(given), len(low)) for v, low in zip(views, self.low, strict=True)
        ]
        top = torch.full((len(given), len(self.top)), 0.5)
        for _ in range(rounds):
            for k, (w, m, up) in enumerate(zip(self.first, self.middle, self.second, strict=True)):
                units[k] = torch.sigmoid(shown[k] @ w + m + top @ up.T)
                if views[k] is None:
                    shown[k] = units[k] @ w.T + self.low[k]
            top = torch.sigmoid(sum(h @ w for h, w in zip(units, self.second, strict=True)) + self.top)
        return top, [h @ w.T + low for h, w, low in zip(units, self.first, self.low, strict=True)]

    def reconstruction(self, views: Sequence[Tensor]) -> float:
        """Mean squared error of the views seen through the machine."""
        seen = self.joint(list(views))[1]
        return float(sum(F.mse_loss(s, v) for s, v in zip(seen, views, strict=True)) / len(views))
