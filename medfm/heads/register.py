"""Flow head: a U-Net decoder whose voxels say where they come from, as a displacement or as a velocity to follow."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from medfm.errors import ConfigError
from medfm.heads.segment import SegmentHead
from medfm.nn.stages import Triple
from medfm.nn.warp import exponential, resize_flow

__all__ = ["FlowHead"]


class FlowHead(nn.Module):
    """Decodes an encoder's pyramid of a pair of pictures to a flow (VoxelMorph, Balakrishnan et al., TMI 2019).

    Args:
        channels, strides: of the encoder's levels, finest first.
        level: of the pyramid on whose grid the flow is; 1 is half resolution, as VoxelMorph integrates.
        steps: of scaling and squaring; 0 makes the flow the displacement itself (the TMI 2019 form), 7 a stationary
            velocity, whose displacement does not fold (the diffeomorphic form, Dalca et al., MICCAI 2018).
        decoder: arguments of `SegmentHead`, which decodes.
    """

    def __init__(
        self, channels: tuple[int, ...], strides: tuple[Triple, ...], *, level: int = 1, steps: int = 7,
        decoder: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if not 0 <= level < len(channels) - 1:
            raise ConfigError(f"found level {level} of {len(channels)}; a coarser one must be left below the flow's")
        self.level, self.steps = level, steps
        d, h, w = strides[level]
        self.scale = (float(d), float(h), float(w))
        self.decoder = SegmentHead(channels[level:], strides[level:], 3, **(decoder or {}))
        last = self.decoder.logits[0]
        for name, parameter in last.named_parameters():  # training starts at the identity, as VoxelMorph's does
            nn.init.normal_(parameter, std=1e-5 if name == "weight" else 0.0)

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        """pyramid: levels (B, C, d, h, w) -> flow (B, 3, d, h, w) in voxels of its own grid, along D, H, W."""
        flow = self.decoder(pyramid[self.level :])[0].float()  # half precision is too coarse for places
        if flow.shape[2] == 1:  # a picture moves in its plane only
            flow = flow * flow.new_tensor([0, 1, 1]).view(1, 3, 1, 1, 1)
        return flow

    def displacement(self, flow: Tensor, size: tuple[int, int, int], *, finer: int = 1) -> Tensor:
        """flow -> displacement (B, 3, *size) in voxels of the input's grid, or of one that is `finer` so many times."""
        u = exponential(flow, steps=self.steps) if self.steps else flow
        d, h, w = self.scale
        return resize_flow(u, size, scale=(d * finer, h * finer, w * finer))
