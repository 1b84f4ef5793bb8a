"""A picture that loses a column is read as before, though the shared encoder's strides do not divide it any more."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medfm.classifier import Classifier
from medfm.detector import Detector
from medfm.grid import Grid, GridPrepare
from medfm.heads.reconstruct import Refiner
from medfm.segmenter import Segmenter

EYE: dict[str, Any] = {"name": "hybrid", "width": 96, "depth": 1, "heads": 4}
PREPARE = {"intensity": "range", "channels": 3}
NARROWER = (127, 125, 122, 113)


@pytest.fixture(scope="module")
def picture() -> Tensor:
    """(3, 1, 128, 128) in [0, 1]: smooth spots of chance."""
    drawn = torch.rand(1, 1, 160, 160, generator=torch.Generator().manual_seed(0))
    spots = F.avg_pool2d(drawn, 9, 1)[..., :128, :128]
    return ((spots - spots.min()) / (spots.max() - spots.min())).expand(3, 1, 128, 128)


def grid(picture: Tensor, width: int) -> Grid:
    return Grid.of(picture[..., :width].contiguous(), torch.ones(3), GridPrepare.from_dict(PREPARE))


def test_outlines_of_a_narrower_picture_are_the_same(picture: Tensor) -> None:
    torch.manual_seed(0)
    head = {"ndim": 2, "widths": [8] * 4}
    model = Segmenter(encoder=EYE, head=head, labels=["spot"], prepare=PREPARE, patch=[1, 128, 128]).eval()
    whole = model.probabilities(grid(picture, 128))[1, 0, :, :48]
    for width in NARROWER:
        found = model.probabilities(grid(picture, width))
        assert found.shape == (2, 1, 128, width)
        assert (found[1, 0, :, :48] - whole).abs().mean() < 0.02 * whole.std()


def test_boxes_in_a_narrower_picture_are_the_same(picture: Tensor) -> None:
    torch.manual_seed(0)
    model = Detector(
        encoder=EYE, head={"levels": [2], "sizes": [[16]], "width": 16}, labels=["spot"], prepare=PREPARE,
        patch=[1, 128, 128],
    ).eval()  # fmt: skip
    torch.nn.init.normal_(model.head.logits.weight, std=1.0)
    torch.nn.init.normal_(model.head.deltas.weight, std=0.1)
    whole = model.find(grid(picture, 128), least=0.0)
    left = whole.boxes[:, 5] < 48
    assert left.any()
    for width in NARROWER:
        found = model.find(grid(picture, width), least=0.0)
        assert found.boxes[:, 5].max() <= width
        gaps = torch.cdist(whole.boxes[left], found.boxes).min(1).values
        assert gaps.median() < 0.5  # voxels


def test_a_narrower_picture_is_refined_alike(picture: Tensor) -> None:
    torch.manual_seed(0)
    model = Refiner(encoder={**EYE, "levels": 4}, channels=1, ct=True, form="decoder", stem=8, residual=False).eval()
    x = picture[None, :1] * 2
    with torch.inference_mode():
        whole = model(x)[..., :48]
        for width in NARROWER:
            found = model(x[..., :width])
            assert found.shape == (1, 1, 1, 128, width)
            assert (found[..., :48] - whole).abs().mean() < 0.02 * whole.std()


class OneCell(torch.nn.Module):
    """Sees something in the third cell of each row and nothing elsewhere; a cell is 32 wide, the last maybe less."""

    channels, strides = (2,), ((1, 32, 32),)

    def forward(self, x: Tensor, spacing: Tensor) -> list[Tensor]:
        cells = torch.zeros(1, 2, 1, -(-x.shape[3] // 32), -(-x.shape[4] // 32))
        cells[:, 1], cells[:, :, ..., 2] = 1, torch.tensor([1.0, 0.0])[:, None, None]
        return [cells]


@pytest.mark.parametrize("head", [{}, {"name": "bag"}], ids=["classes", "attention"])
def test_what_an_answer_rests_on_lies_where_it_was_seen_in_a_narrower_picture(
    picture: Tensor, head: dict[str, Any]
) -> None:
    """Cells were spread over the width as if the last one were whole: up to half of one off."""
    torch.manual_seed(0)
    plain = {"name": "conv", "ndim": 2, "inputs": 3, "channels": [2]}
    model = Classifier(encoder=plain, head=head, labels=["spot", "none"], prepare=PREPARE).eval()
    model.encoder = OneCell()
    for width in (128, *NARROWER):
        # of two classes one is seen in what the other is not
        heats = [model.heat(grid(picture, width), label) for label in model.labels]
        heat = heats[0] if heats[0][0, 0].argmax() > heats[1][0, 0].argmax() else heats[1]
        assert heat.shape == (1, 128, width)
        assert abs(float(heat[0, 0].argmax()) - 79.5) <= 0.5
