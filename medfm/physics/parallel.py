"""Parallel imaging without training: SENSE by unfolding, its noise amplification, and GRAPPA."""

from __future__ import annotations

import torch
from torch import Tensor

from medfm.errors import DataError
from medfm.physics.mri import inverse_fourier

__all__ = ["grappa", "noise_gain", "root_sum_of_squares", "unfold_sense"]


def root_sum_of_squares(x: Tensor, *, dim: int = 1) -> Tensor:
    """Coil pictures to one, without their phase."""
    return x.abs().square().sum(dim, keepdim=True).sqrt()


def unfold_sense(kspace: Tensor, maps: Tensor, *, acceleration: int) -> Tensor:
    """SENSitivity Encoding: every R-th row of (N, H, W) k-space and maps (N, H, W) -> picture (1, H, W).

    For each group of R aliased rows (S* S)^-1 S* a (Pruessmann et al., MRM 42:952, 1999), for coils of equal noise that
    is not correlated. Rows that are not a multiple of R away from the first are not used.

    Raises DataError where R does not divide the rows or fewer coils than R are there.
    """
    rows = kspace.shape[1]
    groups = _aliased(maps, acceleration, rows)
    first = _offset(kspace, acceleration)
    # a grid of every R-th row, moved to row 0, aliases without a phase; the move is a phase ramp of the picture
    kept = torch.zeros_like(kspace)
    kept[:, first::acceleration] = kspace[:, first::acceleration]
    folded = inverse_fourier(kept, 2) * acceleration
    a = folded[:, : rows // acceleration]  # (N, H/R, W)
    shift = torch.arange(acceleration) * (rows // acceleration)
    angles = 2 * torch.pi * (first - rows // 2) * shift.double() / rows
    turn = torch.polar(torch.ones_like(angles), angles).to(maps.dtype)
    s = groups * turn.view(-1, 1, 1, 1).conj()  # (R, N, H/R, W): each replica with its phase in the alias
    s = s.permute(2, 3, 1, 0)
    x = torch.linalg.solve(s.mH @ s, s.mH @ a.permute(1, 2, 0)[..., None])[..., 0]
    return x.permute(2, 0, 1).reshape(1, rows, -1)


def noise_gain(maps: Tensor, *, acceleration: int) -> Tensor:
    """(H, W) g-factor, at least 1: sqrt([(S* S)^-1]_ii [S* S]_ii) of the unfolding (Pruessmann et al. 1999)."""
    rows = maps.shape[1]
    s = _aliased(maps, acceleration, rows).permute(2, 3, 1, 0)
    normal = s.mH @ s
    g = (torch.linalg.inv(normal).diagonal(dim1=-2, dim2=-1) * normal.diagonal(dim1=-2, dim2=-1)).real.sqrt()
    return g.permute(2, 0, 1).reshape(rows, -1)


def _aliased(maps: Tensor, acceleration: int, rows: int) -> Tensor:
    """(N, H, W) -> (R, N, H/R, W): the rows that fall upon each other."""
    if rows % acceleration or len(maps) < acceleration:
        raise DataError(
            f"{rows} rows, {len(maps)} coils, R = {acceleration}; R must divide the rows, with R coils or more"
        )
    return torch.stack(maps.split(rows // acceleration, 1))


def _offset(kspace: Tensor, acceleration: int) -> int:
    """The first row of the regular grid: the residue with the most sampled rows (the middle is sampled in full)."""
    sampled = (kspace.abs().sum((0, 2)) > 0).float()
    counts = [float(sampled[n::acceleration].mean()) for n in range(acceleration)]
    return counts.index(max(counts))


def grappa(kspace: Tensor, *, acceleration: int, rows: int = 2, columns: int = 5, ridge: float = 0.001) -> Tensor:
    """GeneRalized Autocalibrating Partially Parallel Acquisitions: the missing rows of (N, H, W) k-space, filled in.

    Weights from `rows` x `columns` sampled neighbours of all coils to each missing row are fitted to the fully sampled
    middle, with Tikhonov weight `ridge` (relative to the mean eigenvalue). What was sampled is kept to the last bit.
    Source: Griswold et al., MRM 47:1202, 2002.

    Raises DataError where the middle is too small to fit the weights.
    """
    coils, height, width = kspace.shape
    sampled = kspace.abs().sum((0, 2)) > 0
    offset = _offset(kspace, acceleration)
    low, high = _middle(sampled)
    reach = (rows - 1) * acceleration + 1
    if high - low < reach + 1:
        raise DataError(
            f"{high - low} rows are sampled in full in the middle; a kernel needs {reach + 1}: fewer `rows`"
        )
    middle = kspace[:, low:high]
    filled = kspace.clone()
    half = columns // 2
    # above the missing row lie rows // 2 sampled ones, the nearest `missing` rows away
    for missing in range(1, acceleration):
        steps = [acceleration * (n - rows // 2 + 1) - missing for n in range(rows)]
        first, last = -min(steps), high - low - max(steps)
        targets = torch.arange(first, last)
        x = _neighbours(middle, targets, steps, half)  # (targets * columns used, N * rows * columns)
        t = middle[:, targets, half : width - half].permute(1, 2, 0).reshape(-1, coils)
        normal = x.mH @ x
        normal += ridge * normal.diagonal().real.mean() * torch.eye(len(normal))
        weights = torch.linalg.solve(normal, x.mH @ t)
        wanted = torch.arange(height)[(torch.arange(height) - offset) % acceleration == missing]
        wanted = wanted[~sampled[wanted]]
        around = torch.nn.functional.pad(kspace, (half, half))
        around = torch.cat([torch.zeros_like(around[:, :reach]), around, torch.zeros_like(around[:, :reach])], 1)
        values = _neighbours(around, wanted + reach, steps, half) @ weights
        filled[:, wanted] = values.view(len(wanted), width, coils).permute(2, 0, 1)
    return filled


def _middle(sampled: Tensor) -> tuple[int, int]:
    """First and one after the last of the rows that are sampled without a gap around the middle."""
    centre = len(sampled) // 2
    low = high = centre
    while low > 0 and sampled[low - 1]:
        low -= 1
    while high < len(sampled) and sampled[high]:
        high += 1
    return low, high


def _neighbours(k: Tensor, targets: Tensor, steps: list[int], half: int) -> Tensor:
    """(N, H, W) -> one row a target and column: the values `steps` rows away, within `half` columns, of all coils."""
    source = torch.stack([k[:, targets + step] for step in steps], 1)  # (N, rows, targets, W)
    windows = source.unfold(3, 2 * half + 1, 1)  # (N, rows, targets, W - 2 half, columns)
    return windows.permute(2, 3, 0, 1, 4).flatten(0, 1).flatten(1)
