"""Registrar: encoder + flow head + how a pair of scans is read for them, as one folder; load and save."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from medfm import config
from medfm.errors import ConfigError
from medfm.grid import GridPrepare
from medfm.heads.register import FlowHead
from medfm.losses import FlowLoss
from medfm.nn.half import halved
from medfm.nn.warp import warp
from medfm.segmenter import Segmenter
from medfm.stored import Stored, load_stored

__all__ = ["Registrar", "load_registrar"]

Start = Literal["header", "centre", "rigid", "affine"]
_SOFT = 10.0  # weight of soft labels, against the smoothness, where a pair is optimised


class Registrar(Stored):
    """Says of every voxel of a fixed scan where it lies in a moving one that has been brought onto its grid.

    `medfm.json` of its folder holds kind: "register" and these arguments; `register.safetensors` the weights in half
    precision.

    Args:
        encoder: a node of configs with two inputs a channel, moving before fixed. head: arguments of `FlowHead`.
        prepare: fields of `GridPrepare`, for both scans.
        start: what brings the moving scan near the fixed one before the network sees them: their headers, the centres
            of their fields of view, or a rigid or affine registration (`medfm.iterative`).
        guide: arguments of a `Segmenter` of the same `prepare`, kept as it is, whose soft labels the network reads
            beside each picture (segmentation and registration together: DeepAtlas, Xu & Niethammer, MICCAI 2019); its
            K classes without the background make the encoder's inputs 2 (1 + K).
        symmetric: half the difference of the velocities of both orders, so that exchanging the scans inverts the field.
        shrink: what the guide has looked at is averaged over so many voxels along each axis before the network reads
            it; the displacement is on the scans' own grid all the same.
        rounds: how often the network looks. From the second time on it sees both scans warped half of the way onto each
            other by the velocity so far, and what it finds is added (recursive cascades, Zhao et al., ICCV 2019, with
            one stationary velocity, which stays symmetric and does not fold); needs `symmetric`.
        about: what the model is and was trained on, for people; kept as it is.
    """

    kind, file = "register", "register.safetensors"
    given = ("guide.",)

    def __init__(
        self, *, encoder: dict[str, Any], head: dict[str, Any], prepare: dict[str, Any], start: Start = "centre",
        symmetric: bool = False, shrink: int = 1, rounds: int = 1, guide: dict[str, Any] | None = None,
        about: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.settings = {
            "encoder": encoder, "head": head, "prepare": prepare, "start": start, "symmetric": symmetric,
            **({"shrink": shrink} if shrink > 1 else {}), **({"rounds": rounds} if rounds > 1 else {}),
            "guide": guide, "about": about or {},
        }  # fmt: skip
        self.preparation, self.start = GridPrepare.from_dict(prepare), start
        self.encoder = config.build("encoders", encoder)
        self.head = FlowHead(self.encoder.channels, self.encoder.strides, **head)
        self.symmetric, self.shrink, self.rounds = symmetric, shrink, rounds
        if rounds > 1 and not symmetric:
            raise ConfigError(f"found {rounds} rounds without symmetric: both scans go half of the way by it")
        if symmetric and not self.head.steps:
            raise ConfigError("symmetric needs a velocity (head.steps > 0): a displacement is not inverted by its sign")
        self.guide = None if guide is None else Segmenter(**guide).eval().requires_grad_(False)
        if self.guide is not None and self.guide.preparation != self.preparation:
            raise ConfigError(f"the guide reads scans as {self.guide.preparation}, the network as {self.preparation}")
        self.to(memory_format=torch.channels_last_3d)  # a fifth less time for a step on CPU

    @torch.no_grad()
    def look(self, x: Tensor, spacing: Tensor) -> Tensor:
        """A picture (B, C, D, H, W) with the guide's soft labels after it, (B, C + K, D, H, W). spacing: (B, 3) mm."""
        if self.guide is None:
            return x
        return torch.cat([x, self.guide.eval()(x, spacing)[0].softmax(1)[:, 1:]], 1)

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """What `look` gives of two pictures on one grid -> flow (B, 3, d, h, w), see `FlowHead`."""
        return self.flow(self.shrunk(moving), self.shrunk(fixed))

    def shrunk(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) on the grid that the network reads, see `shrink`."""
        return F.avg_pool3d(x, self.shrink) if self.shrink > 1 else x

    def flow(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """What `shrunk` gives of two pictures -> flow (B, 3, d, h, w)."""
        flow, size = self._seen(moving, fixed), (fixed.shape[2], fixed.shape[3], fixed.shape[4])
        for _ in range(self.rounds - 1):
            half = self.head.displacement(torch.cat([flow, -flow]) / 2, size)
            a, b = warp(torch.cat([moving, fixed]), half).chunk(2)
            flow = flow + self._seen(a, b)
        return flow

    def _seen(self, moving: Tensor, fixed: Tensor) -> Tensor:
        both = torch.cat([moving, fixed], 1)
        if self.symmetric:
            both = torch.cat([both, torch.cat([fixed, moving], 1)])
        flow: Tensor = self.head(self.encoder(both.contiguous(memory_format=torch.channels_last_3d)))
        if self.symmetric:
            there, back = flow.chunk(2)
            flow = (there - back) / 2
        return flow

    def displacement(
        self, moving: Tensor, fixed: Tensor, *, spacing: Tensor, optimise: int = 0, loss: FlowLoss | None = None
    ) -> Tensor:
        """The displacement (B, 3, D, H, W), in voxels, that warps `moving` onto `fixed` (B, C, D, H, W) of any size; on
        the CPU, wherever these lie.

        spacing: (B, 3) mm. optimise: steps of gradient descent on the flow of this very pair after the network
        (instance optimisation, Balakrishnan et al. 2019); `loss` is what they descend, default: the squared difference
        of the guide's soft labels, or without a guide local cross-correlation.
        """
        size = (fixed.shape[2], fixed.shape[3], fixed.shape[4])
        pads = self._margin(size)
        a, b = (F.pad(x, pads, mode="replicate").to(self.device) for x in (moving, fixed))
        full = (a.shape[2], a.shape[3], a.shape[4])
        with torch.inference_mode(), halved(a.device.type):
            both = torch.cat([a, b])  # one look at two scans is the faster
            a, b = self.look(both, spacing.to(self.device).repeat(2, 1)).chunk(2)
            flow = self(a, b)
        if optimise:
            kind = FlowLoss(ncc=1.0) if self.guide is None else FlowLoss(mse=_SOFT)
            shown = slice(0 if self.guide is None or loss else moving.shape[1], None)
            flow = self._optimised(flow, a[:, shown], b[:, shown], steps=optimise, loss=loss or kind)
        with torch.inference_mode():
            u = self.head.displacement(flow, full, finer=self.shrink)
            return u[:, :, : size[0], : size[1], : size[2]].cpu()

    @torch.enable_grad()
    def _optimised(self, flow: Tensor, moving: Tensor, fixed: Tensor, *, steps: int, loss: FlowLoss) -> Tensor:
        moving, fixed, flow = moving.clone(), fixed.clone(), flow.clone().requires_grad_()  # out of inference mode
        size = (fixed.shape[2], fixed.shape[3], fixed.shape[4])
        descent = torch.optim.Adam([flow], lr=0.05)
        for _ in range(steps):
            descent.zero_grad()
            u = self.head.displacement(flow, size, finer=self.shrink)
            loss(warp(moving, u), fixed, flow).backward()
            descent.step()
        return flow.detach()

    def _margin(self, sizes: tuple[int, int, int]) -> list[int]:
        """To whole voxels of what the network reads, and two at the coarsest level: normalisation needs more than one.

        No further: every voxel costs, and normalisation would see the margin."""
        pads: list[int] = []
        for size, step in zip(sizes[::-1], self.encoder.strides[-1][::-1], strict=True):
            stride = step * self.shrink
            wanted = max(-(-size // self.shrink) * self.shrink, 2 * stride if stride > 1 else 1)
            pads += [0, wanted - size]
        return pads


def load_registrar(name: str | Path, *, device: str = "cpu") -> Registrar:
    """Load a shipped registration model by name, or a folder that training left; see `medfm.stored.load_stored`."""
    return load_stored(Registrar, name, device=device)
