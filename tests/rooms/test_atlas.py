"""An atlas finds its labels in a scan of any contrast that was moved, bent and shaded; a model carries it along."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medfm.grid import Grid
from medfm.nn.atlas import Atlas
from medfm.segmenter import Segmenter, load_segmenter

SHAPE, SPACING = (20, 24, 20), 6.0


def balls(shape: tuple[int, ...], spacing: float, *, shift: float = 0.0, zoom: float = 1.0) -> torch.Tensor:
    """(D, H, W) labels: a large ball, 1, with a core on either side, 2 and 3, in a head, 4."""
    lines = [((torch.arange(n) - (n - 1) / 2) * spacing - shift) / zoom for n in shape]
    d, h, w = torch.meshgrid(*lines, indexing="ij")
    labels = torch.zeros(shape, dtype=torch.long)
    labels[d**2 + h**2 + w**2 < 55**2] = 4
    labels[d**2 + (h / 1.1) ** 2 + w**2 < 44**2] = 1
    for number, side in ((2, -18), (3, 18)):
        labels[d**2 + h**2 + (w - side) ** 2 < 13**2] = number
    return labels


def parts(labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(labels, 5)[..., 1:].movedim(-1, 0)


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    seen = [parts(balls(SHAPE, SPACING, zoom=z)).float() for z in (0.95, 1.0, 1.05)]
    centres = torch.tensor([[0.0, 0, 0], [0, 0, -18], [0, 0, 18]])
    chances = (torch.stack(seen).mean(0) * 255).round().to(torch.uint8)
    return Atlas(chances, centres, torch.tensor([0, 1, 1]), spacing=SPACING)


@pytest.mark.parametrize("greys", [(0.0, 0.4, 0.8, 0.8, 0.6), (0.0, 0.8, 0.3, 0.3, 0.5)], ids=["bright", "dark"])
def test_it_finds_what_was_moved_and_shaded_in_any_contrast(atlas: Atlas, greys: tuple[float, ...]) -> None:
    shape = (32, 36, 32)
    truth = balls(shape, 4.0, shift=8.0, zoom=1.1)
    image = torch.tensor(greys)[truth] + 0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    image = image * torch.linspace(0.9, 1.1, shape[2])
    expected = torch.cat([torch.zeros(1, *shape), parts(truth)[:3].float()])
    expected[0] = 1 - expected.sum(0)
    blurred = torch.nn.functional.avg_pool3d(expected[None], 9, 1, 4, count_include_pad=False)[0]
    fit = atlas.fit(image, (4.0,) * 3, atlas.starts(blurred, (4.0,) * 3))
    found = atlas.label(image, (4.0,) * 3, fit)
    seen = atlas.seen_from(
        image, (4.0,) * 3, fit, atlas.centres[:, None, None], size=(4.0,) * 3
    )  # the middle of each label
    seen = seen.flatten()
    assert torch.allclose(seen[1:], torch.full((2,), greys[2]), atol=0.12) and abs(float(seen[0]) - greys[1]) < 0.12
    place = torch.tensor([3.0, -5.0, 12.0]).view(1, 1, 1, 3)
    there = atlas.where(place, fit)  # a scan that holds its own places shows where it was looked at
    lines = torch.meshgrid(*[(torch.arange(n) - (n - 1) / 2) * 4.0 for n in shape], indexing="ij")
    back = torch.stack([atlas.seen_from(line, (4.0,) * 3, fit, there, size=(0.0,) * 3) for line in lines], -1)
    assert torch.allclose(back, place, atol=0.3)
    for value in (1, 2, 3):
        a, b = found == value, truth.numpy() == value
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.85
    assert found.max() == 3  # the head around is background


def test_a_model_carries_its_atlas(tmp_path: Path) -> None:
    model = Segmenter(
        encoder={"name": "conv", "ndim": 3, "inputs": 4, "channels": [4, 8]}, head={}, labels=["ball", "one", "other"],
        prepare={"spacing": [3.0] * 3, "intensity": "range"}, patch=[8, 8, 8], places=True,
        atlas={
            "shape": list(SHAPE), "spacing": SPACING, "around": 1, "sees": 12.0, "tissues": [["one", "other"]],
        },
    )  # fmt: skip
    model.get_buffer("chances").copy_((parts(balls(SHAPE, SPACING)) * 255).to(torch.uint8))
    model.get_buffer("centres").copy_(torch.tensor([[0.0, 0, 0], [0, 0, -18], [0, 0, 18]]))
    model.save(tmp_path / "model")
    same = load_segmenter(tmp_path / "model")
    assert same.get_buffer("chances").dtype == torch.uint8
    assert torch.equal(same.get_buffer("chances"), model.get_buffer("chances"))
    image = torch.tensor([0.0, 0.4, 0.8, 0.8, 0.6])[balls((40, 44, 40), 3.0)]
    grid = Grid(image.numpy()[None], (3.0,) * 3, same.preparation, False, 0.0, 1.0)
    labels = same.label(grid)
    assert labels.shape == (40, 44, 40) and set(np.unique(labels)) <= {0, 1, 2, 3}
