"""Windowed transformer whose windows shift from block to block and whose patches merge (Swin), on timm's blocks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medfm.nn.slices import check_channels, fold, unfold
from medfm.nn.stages import rounded_up

__all__ = ["SwinBlocks", "SwinEncoder"]


class SwinEncoder(nn.Module):
    """(B, inputs, D, H, W) -> levels at strides 4, 8, 16, 32 in H and W, slice by slice (Liu et al., ICCV 2021).

    The defaults are Swin-T's, as in Swin-Unet (Cao et al., ECCV workshops 2022).

    Args:
        width: channels after 4x4 patches, doubled with every merging. depths, heads: of each level.
        window: cells of a window's side; every second block shifts by half of it. drop_path: stochastic depth.
    """

    framed = True  # windows begin at a patch's corner and its edge cuts them: smaller scans are padded to one

    def __init__(
        self, *, inputs: int = 1, width: int = 96, depths: Sequence[int] = (2, 2, 2, 2),
        heads: Sequence[int] = (3, 6, 12, 24), window: int = 7, drop_path: float = 0.1,
    ) -> None:  # fmt: skip
        from timm.models.swin_transformer import PatchMerging

        super().__init__()
        self.ndim, self.inputs = 2, inputs
        widths = [width * 2**level for level in range(len(depths))]
        self.embed, self.start = nn.Conv2d(inputs, width, 4, 4), nn.LayerNorm(width)
        self.merges = nn.ModuleList([nn.Identity(), *(PatchMerging(w) for w in widths[:-1])])
        self.levels = nn.ModuleList(
            SwinBlocks(w, depth, head, window=window, drop_path=drop_path)
            for w, depth, head in zip(widths, depths, heads, strict=True)
        )
        self.norm = nn.LayerNorm(widths[-1])
        self.channels = tuple(widths)
        self.strides = tuple((1, 4 * 2**level, 4 * 2**level) for level in range(len(depths)))

    def forward(self, x: Tensor, spacing: Tensor | None = None) -> list[Tensor]:
        """x: (B, inputs, D, H, W) -> levels (B, C, D, h, w), sizes rounded up.

        Raises ShapeError for another number of axes or channels.
        """
        check_channels(x, self.inputs)
        y = self.embed(rounded_up(fold(x), (4, 4))).permute(0, 2, 3, 1)
        y, pyramid = self.start(y), []
        for merge, level in zip(self.merges, self.levels, strict=True):
            y = level(merge(y))
            pyramid.append(y)
        pyramid[-1] = self.norm(y)
        return [unfold(level.permute(0, 3, 1, 2), len(x)) for level in pyramid]


class SwinBlocks(nn.Module):
    """Pairs of window attention and shifted-window attention with relative position bias: (N, h, w, C) -> the same.

    Maps no larger than a window are one window, which does not shift.
    """

    def __init__(self, width: int, depth: int, heads: int, *, window: int = 7, drop_path: float = 0.0) -> None:
        from timm.models.swin_transformer import SwinTransformerBlock

        super().__init__()
        self.window, self.shifts = window, [0 if index % 2 == 0 else window // 2 for index in range(depth)]
        self.blocks = nn.ModuleList(
            SwinTransformerBlock(
                width, (window, window), heads, window_size=window, shift_size=shift,
                always_partition=True, dynamic_mask=True, drop_path=drop_path,
            )
            for shift in self.shifts
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        one = max(x.shape[1:3]) <= self.window
        for block, shift in zip(self.blocks, self.shifts, strict=True):
            block.shift_size = (0, 0) if one else (shift, shift)  # type: ignore[assignment]
            x = block(x)
        return x
