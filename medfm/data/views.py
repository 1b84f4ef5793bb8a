"""What a frozen eye sees in changed copies of every picture, looked at once: passes after that cost no encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medfm.data.questions import Case, stack_scans
from medfm.image import augment
from medfm.vision import Glimpse, Vision

__all__ = ["look_at", "look_at_one", "stack_looks"]


def look_at(vision: Vision, cases: Sequence[Case], *, views: int) -> list[list[Glimpse]]:
    """For each view what `look_at_one` gives of every case."""
    from rich.progress import track

    shown = track(cases, description=f"looking, {views} views", transient=True)
    looks = [look_at_one(vision, case, number, views=views) for number, case in enumerate(shown)]
    return [[of_case[view] for of_case in looks] for view in range(views)]


@torch.no_grad()
def look_at_one(vision: Vision, case: Case, number: int, *, views: int) -> list[Glimpse]:
    """A glimpse, without the first axis and in half precision, of each view of the case with this number.

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
        looks.append(Glimpse(*(part[0].half() for part in vision.look(x, spacing)[2])))
    return looks


def stack_looks(looks: Sequence[Glimpse]) -> Glimpse:
    """Several as one batch in full precision; deeper ones are averaged to the shallowest."""
    depth = min(len(look.patches) for look in looks)

    def stack(parts: Sequence[Tensor]) -> Tensor:
        pooled = [F.adaptive_avg_pool3d(p.float().permute(3, 0, 1, 2), (depth, None, None)) for p in parts]
        return torch.stack(pooled).permute(0, 2, 3, 4, 1).contiguous()

    patches, summaries, plain = zip(*looks, strict=True)
    return Glimpse(stack(patches), torch.stack([s.float() for s in summaries]), stack(plain))
