"""Frames: a box with its surroundings cut from a picture at one size, and maps put back from a frame into the picture.

Places are shares of the picture, (x, y) from 0 to 1; a box or a frame is (left, top, right, bottom). In a frame the
same places run from -1 to 1, as torch's grids do.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["cut", "frame_of", "frame_to_picture", "maps_of", "put_back"]

_LEAST = 0.05  # of the picture: a smaller frame would show single pixels


def frame_of(box: Tensor, *, margin: float = 1.5) -> Tensor:
    """(B, 4) boxes -> (B, 4) frames with the same middle, `margin` times as wide and high, at most twice as long."""
    middle, half = (box[:, :2] + box[:, 2:]) / 2, (box[:, 2:] - box[:, :2]) / 2 * margin
    half = torch.maximum(half, half.amax(1, keepdim=True) / 2).clamp(min=_LEAST / 2)
    return torch.cat([middle - half, middle + half], 1)


def frame_to_picture(frame: Tensor) -> Tensor:
    """(B, 4) frames -> (B, 2, 3) maps from places in the frame to places in a picture that also runs from -1 to 1."""
    middle, half = frame[:, :2] + frame[:, 2:] - 1, frame[:, 2:] - frame[:, :2]
    return torch.cat([torch.diag_embed(half), middle[..., None]], 2)


def cut(picture: Tensor, placed: Tensor, size: int) -> Tensor:
    """What a picture (C, h, w) shows in the frames that `frame_to_picture` placed: (B, C, size, size), 0 beyond it.

    Where a cell of the frame is larger than a pixel, pixels are averaged first: a thin edge is not stepped over.
    """
    crops, whole = [], torch.tensor(picture.shape[:0:-1], dtype=torch.float32)
    for place in placed:
        pixels = (place[:, :2] * whole[:, None]).norm(dim=0) / size  # a cell's width and height
        w, h = (max(1, round(float(n / p))) if p > 1 else int(n) for n, p in zip(whole, pixels, strict=True))
        fitting = picture[None] if (h, w) == picture.shape[1:] else F.interpolate(picture[None], (h, w), mode="area")
        grid = F.affine_grid(place[None], [1, 1, size, size], align_corners=False)
        crops.append(F.grid_sample(fitting, grid, align_corners=False))
    return torch.cat(crops)


def put_back(maps: Tensor, frame: Tensor, size: tuple[int, int], *, outside: float = -20.0) -> Tensor:
    """(B, C, s, s) maps of frames (B, 4) -> (B, C, *size) of the whole picture; `outside` where no frame is."""
    scale = 1 / (frame[:, 2:] - frame[:, :2])
    shift = -(frame[:, :2] + frame[:, 2:] - 1) * scale
    grid = F.affine_grid(torch.cat([torch.diag_embed(scale), shift[..., None]], 2), [len(maps), 1, *size], False)
    found = F.grid_sample(maps, grid, padding_mode="border", align_corners=False)
    return found.where((grid.abs() <= 1).all(-1)[:, None], torch.tensor(outside))


def maps_of(frame: Tensor, box: Tensor | None, points: Sequence[Tensor], size: int) -> Tensor:
    """What the user marked, drawn in each frame: (B, 3, size, size), inside of the box, points on it, points off it.

    frame: (B, 4); box: (B, 4) or None; points: for each frame (N, 3), x, y and 1 (on the thing) or 0 (off it). A box
    side within a cell counts by its share, a point is a Gaussian of two cells; a scribble is its points.
    """
    centres = (torch.arange(size) + 0.5) / size
    x = frame[:, :1] + (frame[:, 2:3] - frame[:, :1]) * centres
    y = frame[:, 1:2] + (frame[:, 3:] - frame[:, 1:2]) * centres
    cell = (frame[:, 2:] - frame[:, :2]) / size
    drawn = torch.zeros(len(frame), 3, size, size)
    if box is not None:
        across, down = (
            ((v - low) / c + 0.5).clamp(0, 1) * ((high - v) / c + 0.5).clamp(0, 1)
            for v, low, high, c in (
                (x, box[:, :1], box[:, 2:3], cell[:, :1]),
                (y, box[:, 1:2], box[:, 3:], cell[:, 1:]),
            )
        )
        drawn[:, 0] = down[:, :, None] * across[:, None, :]
    for index, marks in enumerate(points):
        for mark_x, mark_y, on in marks.tolist():
            near = torch.exp(-0.125 * ((x[index] - mark_x) / cell[index, 0])[None] ** 2)
            near = near * torch.exp(-0.125 * ((y[index] - mark_y) / cell[index, 1])[:, None] ** 2)
            channel = 1 if on else 2
            drawn[index, channel] = torch.maximum(drawn[index, channel], near)
    return drawn
