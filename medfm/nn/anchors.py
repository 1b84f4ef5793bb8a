"""Boxes on a grid of voxels: anchors at every cell of a pyramid, deltas to and from them, overlapping boxes dropped.

A box is (d0, h0, w0, d1, h1, w1), edges in voxels, 0 = the outer edge of the first voxel. A picture is a volume of one
slice, and its boxes have depth 0 to 1: so the overlap of two is that of two rectangles, and one code serves both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medfm.nn.stages import Triple

__all__ = ["clip_boxes", "decode_boxes", "encode_boxes", "grid_anchors", "linked", "suppress"]


def grid_anchors(
    shapes: Sequence[Triple], strides: Sequence[Triple], sizes: Sequence[Sequence[Sequence[float]]]
) -> list[Tensor]:
    """Anchors of each level, (cells * A, 6): those of a cell together, all centred on the middle of the cell.

    shapes: (d, h, w) of the levels. sizes: of each level's A anchors, (D, H, W) voxels of the input. MONAI's and
    torchvision's generators centre anchors on a cell's corner and round their sides, which leaves a slice no depth.
    """
    levels = []
    for shape, stride, kinds in zip(shapes, strides, sizes, strict=True):
        axes = [(torch.arange(n) + 0.5) * s for n, s in zip(shape, stride, strict=True)]
        centres = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 1, 3)
        half = torch.tensor([list(k) for k in kinds], dtype=torch.float32)[None] / 2
        levels.append(torch.cat([centres - half, centres + half], 2).reshape(-1, 6))
    return levels


def encode_boxes(boxes: Tensor, anchors: Tensor) -> Tensor:
    """(N, 6) boxes as deltas from (N, 6) anchors: shift of the middle in sides of the anchor, logarithm of the sides'
    ratio (Girshick et al. 2014; MONAI's coder)."""
    return _coder().encode_single(boxes, anchors)


def decode_boxes(deltas: Tensor, anchors: Tensor) -> Tensor:
    """The inverse of `encode_boxes`."""
    return _coder().decode_single(deltas, anchors)


def _coder() -> Any:
    from monai.apps.detection.utils.box_coder import BoxCoder

    return BoxCoder(weights=(1.0,) * 6)


def clip_boxes(boxes: Tensor, shape: Sequence[int]) -> Tensor:
    """(N, 6) boxes cut at the borders of a (D, H, W) grid; each keeps a thousandth of a voxel at least."""
    limits = torch.tensor([*shape], dtype=boxes.dtype, device=boxes.device)
    low = torch.minimum(boxes[:, :3].clamp(min=0), limits - 1e-3)
    high = torch.maximum(torch.minimum(boxes[:, 3:], limits), low + 1e-3)
    return torch.cat([low, high], 1)


def suppress(boxes: Tensor, scores: Tensor, labels: Tensor, *, overlap: float, most: int) -> Tensor:
    """Numbers of the boxes that stay, best first: none overlaps a better one of its label by more than `overlap` (IoU).

    Boxes of one slice each go through torchvision's compiled loop, slice by slice. Others are compared here, as MONAI
    does, whose checks of every box in every round took a tenth of the time of a whole scan.
    """
    if not len(boxes):
        return torch.zeros(0, dtype=torch.long, device=boxes.device)
    slices = boxes[:, 0].floor()
    if bool((boxes[:, 3] <= slices + 1).all()):
        from torchvision.ops import batched_nms as flat

        apart = (slices - slices.min()).long() * (int(labels.max()) + 1) + labels
        return flat(boxes[:, [2, 1, 5, 4]], scores, apart, overlap)[:most]
    order = scores.argsort(descending=True, stable=True)
    edges, kinds = boxes[order].cpu().numpy(), labels[order].cpu().numpy()
    sizes = (edges[:, 3:] - edges[:, :3]).prod(1)
    left = np.arange(len(edges))
    kept: list[int] = []
    while len(left) and len(kept) < most:
        best, left = left[0], left[1:]
        kept.append(int(best))
        sides = np.minimum(edges[best, 3:], edges[left, 3:]) - np.maximum(edges[best, :3], edges[left, :3])
        shared = sides.clip(min=0).prod(1)
        double = shared > overlap * (sizes[best] + sizes[left] - shared)
        left = left[~double | (kinds[left] != kinds[best])]
    return order[kept]


def linked(boxes: Tensor, scores: Tensor, labels: Tensor, *, overlap: float) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes found slice by slice, as boxes through the slices, best first.

    From slice to slice a box goes on in the one of its label that overlaps it most (IoU in the plane, `overlap` at
    least); one slice may lack it. What comes of it holds all its parts and has the highest of their scores.
    """
    from torchvision.ops import box_iou

    chains: list[list[int]] = []
    near: dict[int, list[list[int]]] = {}  # of each label, the chains that may still go on
    slices, kinds, flat = boxes[:, 0].round().long().tolist(), labels.tolist(), boxes[:, [2, 1, 5, 4]]
    for row in sorted(range(len(boxes)), key=lambda n: (slices[n], -float(scores[n]))):
        near[kinds[row]] = [c for c in near.get(kinds[row], []) if slices[row] - slices[c[-1]] <= 2]
        free = [c for c in near[kinds[row]] if slices[c[-1]] < slices[row]]
        shared = box_iou(flat[[row]], flat[[c[-1] for c in free]])[0] if free else torch.zeros(1)
        if float(shared.max()) >= overlap:
            free[int(shared.argmax())].append(row)
        else:
            chains.append([row])
            near[kinds[row]].append(chains[-1])
    if not chains:
        return boxes, scores, labels
    whole = torch.stack([torch.cat([boxes[c, :3].amin(0), boxes[c, 3:].amax(0)]) for c in chains])
    best = torch.stack([scores[c].max() for c in chains])
    order = best.argsort(descending=True)
    return whole[order], best[order], labels[[c[0] for c in chains]][order]
