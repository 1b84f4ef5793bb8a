"""The second look of Faster R-CNN: each proposal cut from the features at one size, named and corrected."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm.nn.anchors import decode_boxes
from medfm.nn.stages import ConvStage, Triple, triple

__all__ = ["SecondHead", "cut_boxes"]


class SecondHead(nn.Module):
    """Proposals -> classes (softmax with a background) and corners (Ren et al., NeurIPS 2015).

    Args:
        width: channels of the levels that proposals are cut from. classes: without the background.
        ndim: 2 cuts from the slice only. size: cells along each side of a cut. hidden: of the layer behind it.
        proposals: how many of an input are looked at again. margin: how much wider than the proposal is looked.
    """

    def __init__(
        self, width: int, classes: int, *, ndim: int = 2, size: int = 7, hidden: int = 128, proposals: int = 48,
        margin: float = 1.2,
    ) -> None:  # fmt: skip
        super().__init__()
        self.ndim, self.size, self.proposals, self.margin = ndim, size, proposals, margin
        self.stage = ConvStage(ndim, width, width, kernel=triple(3, ndim=ndim), convs=1, norm="group")
        self.hidden = nn.Sequential(nn.Linear(width * size**ndim, hidden), nn.ReLU())
        self.logits, self.deltas = nn.Linear(hidden, classes + 1), nn.Linear(hidden, 6)
        nn.init.zeros_(self.deltas.weight)
        nn.init.zeros_(self.deltas.bias)

    def forward(
        self, features: Sequence[Tensor], strides: Sequence[Triple], boxes: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """features: (B, width, d, h, w) of each level; boxes: (M, 6) of each input -> logits (sum M, 1 + K), background
        first, and deltas (sum M, 6)."""
        depth = self.size if self.ndim == 3 else 1
        cuts = cut_boxes(features, strides, boxes, (depth, self.size, self.size), margin=self.margin)
        y = self.hidden(self.stage(cuts[:, :, 0] if self.ndim == 2 else cuts).flatten(1))
        return self.logits(y), self.deltas(y)

    def correct(self, logits: Tensor, deltas: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Corrected boxes (M, 6) and the probability of each class (M, K)."""
        return decode_boxes(deltas, boxes), logits.softmax(1)[:, 1:]


def cut_boxes(
    features: Sequence[Tensor], strides: Sequence[Triple], boxes: Sequence[Tensor], size: Triple, *, margin: float = 1.0
) -> Tensor:
    """(sum M, C, *size): boxes cut from the level on which they are nearest to `size` cells wide (FPN's rule), linear
    between the middles of cells, as RoIAlign does (He et al. 2017); torchvision's knows two axes only."""
    cuts = []
    for number, own in enumerate(boxes):
        widest = (own[:, 4:] - own[:, 1:3]).amax(1)
        wanted = torch.stack([(widest / s[2] / size[2]).clamp(min=1e-3).log().abs() for s in strides], 1).argmin(1)
        out = own.new_zeros(len(own), features[0].shape[1], *size)
        for level in wanted.unique().tolist():
            mine = wanted == level
            feature = features[level][number : number + 1]
            extent = own.new_tensor([n * s for n, s in zip(feature.shape[2:], strides[level], strict=True)])
            middle, half = (own[mine, :3] + own[mine, 3:]) / 2, (own[mine, 3:] - own[mine, :3]) / 2 * margin
            if size[0] == 1:
                half = half * half.new_tensor([0.0, 1, 1])
            scale, shift = (half / extent * 2).flip(1), (middle / extent * 2 - 1).flip(1)
            theta = torch.cat([torch.diag_embed(scale), shift[..., None]], 2)
            grid = F.affine_grid(theta, [len(theta), 1, *size], align_corners=False)
            flat = F.grid_sample(feature, grid.flatten(0, 1)[None], padding_mode="border", align_corners=False)
            out[mine] = flat[0].unflatten(1, (len(theta), size[0])).transpose(0, 1)
        cuts.append(out)
    return torch.cat(cuts)
