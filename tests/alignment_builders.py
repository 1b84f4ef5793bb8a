"""A head, a texture, a known movement and a known bend, for the tests of registration."""

from __future__ import annotations

import numpy as np
from scan_builders import ras_affine
from scipy.ndimage import gaussian_filter

from medfm.scan import Alignment, Scan

SHAPE = (20, 24, 28)


def head(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    """A rounded body with structure inside, on black."""
    places = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) if n > 1 else [0.0] for n in shape], indexing="ij"))
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), [min(n - 1, 1.5) for n in shape])
    body = (places**2).sum(0) < 0.75
    return (body * (100 + 60 * noise / noise.std())).clip(0, 255).astype(np.float32)


def texture() -> np.ndarray:
    """Structure everywhere, about 100."""
    noise = gaussian_filter(np.random.default_rng(3).normal(size=SHAPE), 1.5)
    return (100 + 40 * noise / noise.std()).astype(np.float32)


def scan(array: np.ndarray, *, affine: np.ndarray | None = None) -> Scan:
    return Scan.from_array(array, affine=ras_affine((1.0, 1.2, 1.5), angle=10) if affine is None else affine)


def movement(degrees: float = 6.0, shift: tuple[float, float, float] = (2.0, -1.5, 1.0)) -> np.ndarray:
    """A turn about the axis through the middle of `scan(head())`, then a shift; RAS mm."""
    a = np.radians(degrees)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    middle = (scan(head()).affine @ [*((np.array(SHAPE[::-1]) - 1) / 2), 1])[:3]
    matrix = np.eye(4)
    matrix[:3, :3] = turn
    matrix[:3, 3] = middle - turn @ middle + shift
    return matrix


def bent() -> Alignment:
    """A known alignment with a field of up to 2 mm that does not fold."""
    noise = np.random.default_rng(1).normal(size=(3, *SHAPE))
    field = np.stack([gaussian_filter(part, 4) for part in noise])
    return Alignment(movement(), (2 * field / np.abs(field).max()).astype(np.float32), scan(head()).affine)


def corners(of: Scan) -> np.ndarray:
    index = np.random.default_rng(2).uniform(4, np.array(SHAPE[::-1]) - 5, (30, 3))
    return index @ of.affine[:3, :3].T + of.affine[:3, 3]
