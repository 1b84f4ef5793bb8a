"""ResNet whose coarsest map is read on by a vision transformer (TransUNet's encoder), on timm's blocks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm.nn.slices import check_channels, fold, unfold
from medfm.nn.stages import rounded_up

__all__ = ["ResNetVit"]


class ResNetVit(nn.Module):
    """(B, inputs, D, H, W) -> levels at strides 2, 4, 8 from the ResNet and 16 from the transformer, slice by slice.

    TransUNet (Chen et al. 2021): the convolutions feed the transformer with 1x1 patches and give the skips. The
    defaults are the paper's R50-ViT-B/16: group norm and standardised weights (BiT), 3-4-9 blocks, twelve layers.

    Args:
        size: pixels of H and W that the learned positions are for; they are interpolated for other sizes.
        channels: of the ResNet's stages. blocks: in each. stem: channels at stride 2.
        width, depth, heads: of the transformer; its hidden layer is four times as wide.
    """

    framed = True  # positions are those of a patch: smaller scans are padded to one

    def __init__(
        self, *, inputs: int = 1, size: int = 224, channels: Sequence[int] = (256, 512, 1024),
        blocks: Sequence[int] = (3, 4, 9), stem: int = 64, width: int = 768, depth: int = 12, heads: int = 12,
    ) -> None:  # fmt: skip
        from timm.layers import StdConv2dSame
        from timm.models.resnetv2 import ResNetV2
        from timm.models.vision_transformer import Block

        super().__init__()
        self.ndim, self.inputs = 2, inputs
        body = ResNetV2(
            list(blocks), channels=tuple(channels), num_classes=0, global_pool="", in_chans=inputs, preact=False,
            stem_chs=stem, stem_type="same", conv_layer=partial(StdConv2dSame, eps=1e-8),
        )  # fmt: skip
        parts = dict(body.stem.named_children())
        self.stem, self.pool = nn.Sequential(parts["conv"], parts["norm"]), parts["pool"]
        self.stages = body.stages
        self.lift = nn.Conv2d(channels[-1], width, 1)
        self.positions = nn.Parameter(torch.zeros(1, width, size // 16, size // 16))
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.blocks = nn.ModuleList(Block(width, heads, qkv_bias=True) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.channels = (stem, *channels[:-1], width)
        self.strides = tuple((1, s, s) for s in (2, 4, 8, 16))

    def forward(self, x: Tensor, spacing: Tensor | None = None) -> list[Tensor]:
        """x: (B, inputs, D, H, W) -> four levels (B, C, D, h, w).

        Raises ShapeError for another number of axes or channels.
        """
        check_channels(x, self.inputs)
        batch = len(x)
        y = self.stem(rounded_up(fold(x), (16, 16)))
        levels = [y]
        y = self.pool(y)
        for stage in self.stages:
            y = stage(y)
            levels.append(y)
        y = self.lift(levels.pop())
        places: Tensor = self.positions
        if places.shape[2:] != y.shape[2:]:
            places = F.interpolate(places, y.shape[2:], mode="bilinear", align_corners=False)
        tokens = (y + places).flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens)
        levels.append(self.norm(tokens).transpose(1, 2).unflatten(2, y.shape[2:]))
        return [unfold(level, batch) for level in levels]
