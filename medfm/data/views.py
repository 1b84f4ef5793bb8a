"""What a frozen eye sees in changed copies of every picture, looked at once: passes after that cost no encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medfm.data.questions import Case, stack_scans
from medfm.image import augment
from medfm.vision import Vision

__all__ = ["Look", "look_at", "look_at_one", "stack_looks"]

Look = tuple[Tensor, Tensor]


def look_at(vision: Vision, cases: Sequence[Case], *, views: int) -> list[list[Look]]:
    """For each view what `look_at_one` gives of every case."""
    from rich.progress import track

    shown = track(cases, description=f"looking, {views} views", transient=True)
    looks = [look_at_one(vision, case, number, views=views) for number, case in enumerate(shown)]
    return [[of_case[view] for of_case in looks] for view in range(views)]


@torch.no_grad()
def look_at_one(vision: Vision, case: Case, number: int, *, views: int) -> list[Look]:
    """Patches (D, h, w, F) and summary (5, K) of each view of the case with this number, in half precision.

    View 0 is the picture as it is, the last of several a thin slab made of it, those between are warped and their
    contrast changed.
    """
    vision.eval()
    looks = []
    for view in range(views):
        generator = torch.Generator().manual_seed(1000 * view + number)
        x, spacing = stack_scans([case])
        if view:
            warped, _ = augment.warp_affine(x.flatten(1, 2), generator)
            x = augment.contrast(warped.unflatten(1, (3, -1)), generator)
        if view == views - 1 > 0 and x.shape[2] == 1:
            x, spacing = augment.slab(x[:, :, 0], generator, depth=3)
        pyramid, logits = vision.look(x, spacing)
        patches, summary = vision.connector.gather(pyramid, logits), vision.structures.summary(logits)
        looks.append((patches[0].half(), summary[0].half()))
    return looks


def stack_looks(looks: Sequence[Look]) -> tuple[Tensor, Tensor]:
    """patches (B, D, h, w, F) and summary (B, 5, K); deeper ones are averaged to the shallowest."""
    depth = min(len(patches) for patches, _ in looks)
    patches = torch.stack([
        F.adaptive_avg_pool3d(p.float().permute(3, 0, 1, 2), (depth, None, None)) for p, _ in looks
    ])  # fmt: skip
    return patches.permute(0, 2, 3, 4, 1).contiguous(), torch.stack([s.float() for _, s in looks])
