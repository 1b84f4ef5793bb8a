"""UNETR's decoder: every tap of a plain transformer brought up to its own resolution, then a U-Net's way up."""

from __future__ import annotations

from torch import Tensor, nn

from medfm.errors import ConfigError
from medfm.nn.stages import Triple

__all__ = ["UnetrHead"]


class UnetrHead(nn.Module):
    """Skips of strides 1 to 8 from the input and three taps at stride 16 (Hatamizadeh et al., WACV 2022), by MONAI.

    With `VitEncoder` and the defaults it is MONAI's `UNETR`, weight by weight. Every halving of the encoder's patch
    takes one level of the way up and one tap.

    Args:
        channels, strides: of the encoder's levels: the input, then log2(patch) taps. classes: of the softmax.
        width: channels at full resolution; doubled a level.
    """

    ndim = 3
    packed = False  # channels last would be copied for every instance norm and back: a quarter of a step on CPU

    def __init__(
        self, channels: tuple[int, ...], strides: tuple[Triple, ...], classes: int, *, width: int = 16
    ) -> None:  # fmt: skip
        from monai.networks.blocks import UnetOutBlock, UnetrBasicBlock, UnetrPrUpBlock, UnetrUpBlock

        super().__init__()
        sides, steps = [s[0] for s in strides], len(strides) - 1
        if sides != [1, *[2**steps] * steps]:
            raise ConfigError(
                f"found levels of strides {sides}; expected the input and log2(patch) taps of a vit, four at 16"
            )
        inputs, hidden = channels[0], channels[1]
        self.first = UnetrBasicBlock(3, inputs, width, 3, 1, "instance", res_block=True)
        self.skips = nn.ModuleList(
            UnetrPrUpBlock(
                3, hidden, width * 2**level, steps - 1 - level, 3, 1, 2, "instance", conv_block=True, res_block=True
            )
            for level in range(1, steps)
        )  # fmt: skip
        self.ups = nn.ModuleList(
            UnetrUpBlock(
                3, hidden if level == steps - 1 else width * 2 ** (level + 1), width * 2**level, 3, 2, "instance",
                res_block=True,
            )
            for level in range(steps - 1, -1, -1)
        )  # fmt: skip
        self.logits = UnetOutBlock(3, width, classes)

    def forward(self, pyramid: list[Tensor], size: Triple | None = None) -> list[Tensor]:
        """pyramid: of `VitEncoder` -> [logits (B, classes, D, H, W)], cropped to `size`."""
        x, *taps, y = pyramid
        skips = [self.first(x), *(skip(tap) for skip, tap in zip(self.skips, taps, strict=True))]
        for up, skip in zip(self.ups, skips[::-1], strict=True):
            y = up(y, skip)
        d, h, w = size or x.shape[2:]
        return [self.logits(y)[:, :, :d, :h, :w]]
