"""Second looks, dual paths and views: each part does what its paper says it does."""

from __future__ import annotations

import torch

from medfm.config import build
from medfm.encoders.dual_path import DualPathEncoder
from medfm.encoders.views import ViewsEncoder
from medfm.heads.detect import DetectHead
from medfm.heads.second import SecondHead, cut_boxes
from medfm.objectives.detection import DenseLoss

VIEWS = {"name": "conv", "ndim": 2, "inputs": 1, "channels": [8, 16], "convs": 1}


def test_cuts_are_those_of_roi_align() -> None:
    from torchvision.ops import roi_align

    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(2, 3, 1, 20, 24, generator=generator)
    boxes = torch.tensor([[0.0, 12, 16, 1, 40, 60], [0.0, 20, 30, 1, 55, 70]])
    cut = cut_boxes([feature], [(1, 4, 4)], [boxes, boxes[:1]], (1, 5, 5))
    flat = boxes[:, [2, 1, 5, 4]]
    theirs = roi_align(feature[:, :, 0], [flat, flat[:1]], 5, spatial_scale=0.25, sampling_ratio=1, aligned=True)
    torch.testing.assert_close(cut[:, :, 0], theirs, atol=1e-5, rtol=0)
    volume = torch.stack(torch.meshgrid(*[torch.arange(12.0)] * 3, indexing="ij"))[None]  # each cell says where it is
    box = torch.tensor([[4.0, 8, 12, 16, 20, 20]])
    places = cut_boxes([volume], [(2, 2, 2)], [box], (4, 4, 4))[0]
    torch.testing.assert_close(places.mean((1, 2, 3)), torch.tensor([10.0, 14, 16]) / 2 - 0.5)


def test_levels_are_chosen_by_size() -> None:
    fine, coarse = torch.zeros(1, 1, 1, 16, 16), torch.ones(1, 1, 1, 4, 4)
    boxes = torch.tensor([[0.0, 0, 0, 1, 16, 16], [0.0, 0, 0, 1, 60, 60]])
    cut = cut_boxes([fine, coarse], [(1, 4, 4), (1, 16, 16)], [boxes], (1, 4, 4))
    assert cut.mean((1, 2, 3, 4)).tolist() == [0, 1]


def test_a_second_look_starts_from_the_proposal_and_learns() -> None:
    torch.manual_seed(0)
    head = SecondHead(4, 2, ndim=3, size=3, hidden=16)
    boxes = torch.tensor([[2.0, 2, 2, 10, 10, 10]])
    logits, deltas = head([torch.randn(1, 4, 6, 6, 6)], [(2, 2, 2)], [boxes])
    corrected, p = head.correct(logits, deltas, boxes)
    torch.testing.assert_close(corrected, boxes)
    assert p.shape == (1, 2) and float(p.sum()) < 1  # the rest is background


def test_dual_paths_add_and_append() -> None:
    torch.manual_seed(0)
    encoder = DualPathEncoder(first=4, widths=[8, 8, 8, 8], dense=4, blocks=2, groups=2)
    assert encoder.downs[0].out == 8 + 4 * 3  # the projection brings four, each block four more
    block = encoder.downs[1].blocks[1].eval()
    x = torch.rand(1, 16, 2, 2, 2)
    with torch.no_grad():
        y, new = block(x), block.body(x)
    torch.testing.assert_close(y[:, :8], (x[:, :8] + new[:, :8]).relu())  # residual
    torch.testing.assert_close(y[:, 8:16], x[:, 8:])  # dense: kept
    torch.testing.assert_close(y[:, 16:], new[:, 8:].relu())  # dense: appended
    (level,) = encoder(torch.rand(1, 1, 20, 33, 17))
    assert level.shape == (1, encoder.channels[0], 5, 9, 5)
    plain = DualPathEncoder(first=4, widths=[8, 8, 8, 8], groups=2, dual=False)
    assert plain.channels == (8,)


def test_the_proposer_knows_where_it_looks_and_keeps_cubes() -> None:
    torch.manual_seed(0)
    head = DetectHead([8], [(4, 4, 4)], 1, ndim=3, levels=[0], sizes=[[5, 10, 20]], pyramid=False, cube=True,
                      places=True, width=8, convs=1)  # fmt: skip
    level = torch.randn(1, 8, 3, 4, 5)
    dense = head([level])
    assert dense.logits.shape == (1, 180, 1) and [len(a) for a in dense.anchors] == [180]
    assert torch.equal(dense.deltas[..., 3], dense.deltas[..., 5])
    corner = head([level], torch.tensor([[-1.0, -1, -1, 0, 0, 0]]))
    assert not torch.allclose(dense.logits, corner.logits)
    DenseLoss(match="iou", classes="hard")(dense, torch.zeros(1, 1, 6), torch.tensor([[-1]]), per_cell=3)[0].backward()


def test_views_are_read_alike_and_joined_with_the_place_in_mind() -> None:
    torch.manual_seed(0)
    encoder: ViewsEncoder = build("encoders", {"name": "views", "inner": VIEWS}).eval()
    x = torch.rand(2, 3, 1, 32, 32)
    levels, where = encoder.look(x)
    assert [tuple(y.shape) for y in levels] == [(2, 8, 1, 32, 32), (2, 16, 1, 16, 16)] and where.shape == (2, 4)
    swapped = encoder.look(x[:, [1, 0, 2]])[0]
    assert not torch.allclose(levels[0], swapped[0])  # a window keeps its own weights in the join
    with torch.no_grad():  # what says where feeds the attention
        moved = dict(encoder.named_parameters())["look_where.0.bias"]
        moved += torch.randn_like(moved) * 3
    assert not torch.allclose(levels[0], encoder.look(x)[0][0])
    blind: ViewsEncoder = build("encoders", {"name": "views", "inner": VIEWS, "place": False}).eval()
    before = blind.look(x)[0][0]
    with torch.no_grad():
        blind.look_where[0].bias += 3
    assert torch.allclose(before, blind.look(x)[0][0])


def test_the_place_is_learned() -> None:
    torch.manual_seed(0)
    encoder: ViewsEncoder = build("encoders", {"name": "views", "inner": VIEWS})
    share = torch.rand(64)
    x = share[:, None, None, None, None] * torch.ones(64, 3, 1, 16, 16) + 0.05 * torch.randn(64, 3, 1, 16, 16)
    x[..., :8] = 0.5  # instance norms remove what is the same everywhere
    optimizer = torch.optim.Adam(encoder.parameters(), 1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        encoder.place_loss(encoder.look(x)[1], share).backward()
        optimizer.step()
    where = encoder.look(x)[1]
    parts = sum((share > edge).long() for edge in encoder.bins)
    assert (where[:, 1:].argmax(1) == parts).float().mean() >= 0.9
