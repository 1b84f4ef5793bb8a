"""Plain vision transformer over cubes of voxels, tapped at several depths (UNETR's encoder), on MONAI's blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from medfm.errors import ConfigError
from medfm.nn.slices import check_channels
from medfm.nn.stages import rounded_up

__all__ = ["VitEncoder"]


class VitEncoder(nn.Module):
    """(B, inputs, D, H, W) -> the input itself, then the tokens of the blocks in `taps`, all at stride `patch`.

    UNETR (Hatamizadeh et al., WACV 2022); the defaults are the paper's. The last tap is normalised, as there. Sizes
    that `patch` does not divide are padded at their end by repeating voxels.

    Args:
        size: (D, H, W) voxels that the learned positions are for; they are interpolated for other sizes.
        patch: voxels of a token's side, a power of two; 16 in the paper.
        width, depth, heads, hidden: of the transformer. taps: blocks counted from 1, ascending, the last one `depth`;
            MONAI's `UNETR` and the authors' code count from 0, which is [4, 7, 10, 12] here.
    """

    framed = True  # positions are those of a patch: smaller scans are padded to one

    def __init__(
        self, *, inputs: int = 1, size: Sequence[int] = (96, 96, 96), patch: int = 16, width: int = 768,
        depth: int = 12, heads: int = 12, hidden: int = 3072, taps: Sequence[int] = (3, 6, 9, 12),
    ) -> None:  # fmt: skip
        from monai.networks.nets.vit import ViT

        super().__init__()
        if any(s % patch for s in size) or list(taps) != sorted(set(taps)) or taps[-1] != depth:
            raise ConfigError(
                f"found size {list(size)}, depth {depth} and taps {list(taps)}; expected multiples of {patch}, and "
                "taps in ascending order that end with the depth"
            )
        self.ndim, self.inputs, self.taps, self.patch = 3, inputs, [tap - 1 for tap in taps], (patch,) * 3
        self.grid = tuple(s // patch for s in size)
        self.vit = ViT(
            inputs, tuple(size), self.patch, hidden_size=width, mlp_dim=hidden, num_layers=depth, num_heads=heads
        )
        self.channels = (inputs, *[width] * len(taps))
        self.strides = ((1, 1, 1), *[(patch, patch, patch)] * len(taps))

    def forward(self, x: Tensor, spacing: Tensor | None = None) -> list[Tensor]:
        """x: (B, inputs, D, H, W) -> [x padded to whole patches, (B, width, d, h, w) a tap].

        Raises ShapeError for another number of axes or channels.
        """
        check_channels(x, self.inputs)
        x = rounded_up(x, self.patch)
        embedding = self.vit.patch_embedding
        y = embedding.patch_embeddings(x)
        grid = y.shape[2:]
        y = embedding.dropout(y.flatten(2).transpose(1, 2) + self._positions(grid))
        pyramid = [x]
        for index, block in enumerate(self.vit.blocks):
            y = block(y)
            if index in self.taps:
                tap = self.vit.norm(y) if index == self.taps[-1] else y
                pyramid.append(tap.transpose(1, 2).unflatten(2, grid))
        return pyramid

    def _positions(self, grid: tuple[int, ...]) -> Tensor:
        learned: Tensor = self.vit.patch_embedding.position_embeddings
        if grid == self.grid:
            return learned
        cube = learned.transpose(1, 2).unflatten(2, self.grid)
        return F.interpolate(cube, grid, mode="trilinear", align_corners=False).flatten(2).transpose(1, 2)
