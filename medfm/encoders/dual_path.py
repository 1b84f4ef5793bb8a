"""DeepLung's encoder-decoder of dual-path blocks: residual in one part of the channels, dense in the other, in 3D."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm.nn.slices import check_channels

__all__ = ["DualPathEncoder"]


class DualPathEncoder(nn.Module):
    """(B, inputs, D, H, W) -> one level at stride 4, after a way down to stride 16 and up again with skips.

    Source: DeepLung (Zhu et al., WACV 2018); its blocks are those of Dual Path Networks (Chen et al., NeurIPS 2017).

    Args:
        first: channels at full resolution. widths: of the residual part at strides 2, 4, 8 and 16.
        dense: channels that each block adds to the dense part. blocks: in each stage. groups: of the 3 x 3 x 3
            convolutions. dual: without it (False) the blocks are residual only, for comparison.
    """

    def __init__(
        self, *, inputs: int = 1, first: int = 24, widths: list[int] | None = None, dense: int = 8, blocks: int = 2,
        groups: int = 8, dual: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        widths = widths or [24, 48, 72, 96]
        dense = dense if dual else 0
        self.inputs = inputs
        self.enter = nn.Sequential(_conv(inputs, first), _conv(first, first))
        self.downs = nn.ModuleList()
        seen, outs = first, []
        for width in widths:
            stage = _Stage(seen, width, dense=dense, blocks=blocks, groups=groups)
            self.downs.append(stage)
            seen = stage.out
            outs.append(seen)
        self.ups, self.backs = nn.ModuleList(), nn.ModuleList()
        for width, skip in ((widths[2], outs[2]), (widths[1], outs[1])):
            self.ups.append(nn.ConvTranspose3d(seen, width, 2, stride=2))
            stage = _Stage(width + skip, width, dense=dense, blocks=blocks, groups=groups)
            self.backs.append(stage)
            seen = stage.out
        self.channels = (seen,)
        self.strides = ((4, 4, 4),)

    def forward(self, x: Tensor, spacing: Tensor | None = None) -> list[Tensor]:
        """x: (B, inputs, D, H, W), sizes rounded up to 16 -> [(B, C, D/4, H/4, W/4)]. `spacing` is not used."""
        check_channels(x, self.inputs)
        sizes = [-(-n // 4) for n in x.shape[2:]]
        x = F.pad(x, [p for n in x.shape[:1:-1] for p in (0, -n % 16)], mode="replicate")
        y, skips = self.enter(x), []
        for stage in self.downs:
            y = stage(F.max_pool3d(y, 2))
            skips.append(y)
        for up, back, skip in zip(self.ups, self.backs, skips[-2::-1], strict=False):
            y = back(torch.cat([up(y), skip], 1))
        return [y[:, :, : sizes[0], : sizes[1], : sizes[2]]]


class _Stage(nn.Module):
    """Dual-path blocks at one resolution: the first projects, each adds `dense` channels."""

    def __init__(self, seen: int, width: int, *, dense: int, blocks: int, groups: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        for number in range(blocks):
            self.blocks.append(_Block(seen, width, dense=dense, groups=groups, first=number == 0))
            seen = width + dense * (number + (2 if dense else 0)) if dense else width
        self.out = seen

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class _Block(nn.Module):
    """1, 3 and 1 wide convolutions; of the result the first `width` channels are added, the rest is appended."""

    def __init__(self, seen: int, width: int, *, dense: int, groups: int, first: bool) -> None:
        super().__init__()
        self.width = width
        self.body = nn.Sequential(
            _conv(seen, width, kernel=1), _conv(width, width, groups=groups), _conv(width, width + dense, 1, act=False)
        )
        self.shortcut = _conv(seen, width + dense, 1, act=False) if first else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        old, new = self.shortcut(x), self.body(x)
        d = self.width
        return F.relu(torch.cat([old[:, :d] + new[:, :d], old[:, d:], new[:, d:]], 1))


def _conv(seen: int, out: int, kernel: int = 3, *, groups: int = 1, act: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv3d(seen, out, kernel, padding=kernel // 2, groups=groups, bias=False), nn.BatchNorm3d(out),
    ]  # fmt: skip
    return nn.Sequential(*layers, nn.ReLU()) if act else nn.Sequential(*layers)
