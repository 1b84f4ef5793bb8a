"""The eye's own maps of named structures made sharp: they start as its coarse outlines, and a U-Net decoder adds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm import assets
from medfm.errors import AdapterMismatch
from medfm.heads.segment import SegmentHead
from medfm.heads.structures import StructureHead
from medfm.nn.slices import fold, unfold
from medfm.nn.stages import Triple

__all__ = ["OutlineHead"]


class OutlineHead(nn.Module):
    """Softmax over a background of 0 and the eye's map of each label, plus what a `SegmentHead` adds, slice by slice.

    Before training it adds nothing, and the likeliest class is the eye's coarse outline (`medfm.predict.outlining`).
    The decoder also reads the maps, beside the level of their resolution.

    Args:
        channels, strides: of the shared encoder's five levels. classes: of the softmax, background included.
        labels: names of the classes after the background. The map of one that the eye does not know starts empty.
        adapter: whose eye. widths: of the decoder's levels, finest first.

    Raises AdapterMismatch: that eye draws no maps on such a pyramid.
    """

    ndim = 2

    def __init__(
        self, channels: tuple[int, ...], strides: tuple[Triple, ...], classes: int, *, labels: Sequence[str],
        adapter: str = "default", widths: Sequence[int] = (24, 32, 64, 96),
    ) -> None:  # fmt: skip
        super().__init__()
        self.maps = StructureHead(channels, labels=list(labels))
        self._start(adapter)
        self.level = len(channels) - 3  # the finest of those that the maps are made from
        wider = [c + len(labels) * (level == self.level) for level, c in enumerate(channels)]
        self.fine = SegmentHead(tuple(wider), strides, classes, ndim=2, widths=list(widths))
        for parameter in self.fine.logits.parameters():
            nn.init.zeros_(parameter)

    def _start(self, adapter: str) -> None:
        """Take over what the eye's own head has learned, of the last layer the rows of these labels."""
        tensors, known = assets.eye_structures(adapter)
        own = self.maps.state_dict()
        if tensors.keys() != own.keys() or any(own[n].shape[1:] != t.shape[1:] for n, t in tensors.items()):
            raise AdapterMismatch(f"the eye of adapter {adapter!r} draws no maps on such a pyramid")
        rows = [(number, known.index(label)) for number, label in enumerate(self.maps.labels) if label in known]
        for name, tensor in tensors.items():
            if name.startswith("logits."):
                for number, there in rows:
                    own[name][number] = tensor[there]
            else:
                own[name] = tensor
        self.maps.load_state_dict(own)

    def forward(self, pyramid: list[Tensor], size: Triple | None = None) -> list[Tensor]:
        """pyramid: levels (B, C, D, h, w) -> [logits (B, classes, D, H, W)] of `size`, default the finest level's."""
        batch = len(pyramid[0])
        slices = [fold(level)[:, :, None] for level in pyramid]
        spacing = slices[0].new_ones(len(slices[0]), 3)  # read by what mixes slices only, and each is alone here
        maps = self.maps(slices, spacing)
        slices[self.level] = torch.cat([slices[self.level], maps.sigmoid()], 1)
        added = self.fine(slices)[0][:, :, 0]
        coarse = F.interpolate(maps[:, :, 0], added.shape[2:], mode="bilinear", align_corners=False)
        logits = added + F.pad(coarse, (0, 0, 0, 0, 1, 0))
        if size is not None:
            logits = F.interpolate(logits, tuple(size[1:]), mode="bilinear", align_corners=False)
        return [unfold(logits, batch)]
