"""LesionFinder: lesions of the brain as what an atlas fitted to the scan leaves unexplained, told by a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from medfm import config
from medfm.nn.attention import centred_positions
from medfm.nn.half import halved
from medfm.nn.tissues import CHANNELS, GREYS, Tissues
from medfm.scan import Scan
from medfm.segmenter import Segmenter, load_segmenter
from medfm.stored import Stored, load_stored

__all__ = ["Ground", "LesionFinder", "load_finder"]


class Ground:
    """Where lesions are looked for: the part of a model's atlas that holds brain, on voxels of about `spacing` mm.

    places: mm (D, H, W, 3) of its voxels in the atlas. low, high: (3,) mm of its outer edges.
    """

    def __init__(self, brain: Segmenter, spacing: float) -> None:
        self.brain = brain
        atlas = brain.atlas()
        size = [max(1, round(2 * float(h) / spacing)) for h in atlas.half]
        steps = torch.tensor([2 * float(h) / n for h, n in zip(atlas.half, size, strict=True)])
        chances = F.interpolate(atlas.labels[None, 1 : atlas.known + 1], size, mode="trilinear")[0]
        inside = (chances.sum(0) > 0.05).nonzero()
        first, last = inside.amin(0), inside.amax(0) + 1
        cut = tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
        d, h, w = size
        self.places = centred_positions((d, h, w), steps[None])[0].view(d, h, w, 3)[cut]
        self.low, self.high = first * steps - atlas.half, last * steps - atlas.half
        self.steps, self.spacing = steps.tolist(), spacing
        self.tissues = Tissues(chances[(slice(None), *cut)], brain.labels)

    def read(self, scan: Scan) -> tuple[Tensor, Tensor]:
        """A scan's channels (11, D, H, W), see `Tissues`, and where each of its voxels of about `spacing` mm lies on
        this ground: (d, h, w, 3), -1 to 1 from edge to edge. Raises ScanError: too little of a head is in the scan."""
        grid = self.brain.preparation(scan)
        atlas, fit = self.brain.fitted(grid, thin=2)
        image = grid.numbers()[0]
        seen = atlas.seen_from(image, grid.spacing, fit, self.places, size=self.steps)
        coarse, spacing = grid.averaged(self.spacing)
        d, h, w = coarse.shape[1:]
        there = atlas.where(centred_positions((d, h, w), torch.tensor([spacing]))[0].view(d, h, w, 3), fit)
        return self.tissues.channels(seen), 2 * (there - self.low) / (self.high - self.low) - 1


class LesionFinder(Stored):
    """Tells each voxel of a brain that its structures do not explain, whatever the contrast.

    `medfm.json` of its folder holds kind: "lesions" and these arguments; `lesions.safetensors` the weights.

    Args:
        encoder, head: nodes; the encoder reads `medfm.nn.tissues.CHANNELS` numbers a voxel.
        brain: the model whose atlas is fitted to each scan. spacing: mm of the voxels.
        score: how sure a part of what was found makes one, as weights of (logit of its highest probability, log of its
            ml, 1) fitted on scans of people in training (Platt 1999); none: the probability itself.
        about: what the model is and was trained on, for people; kept as it is.
    """

    kind, file = "lesions", "lesions.safetensors"

    def __init__(
        self, *, encoder: dict[str, Any], head: dict[str, Any], brain: str, spacing: float,
        score: Sequence[float] = (), about: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.settings = {
            "encoder": encoder, "head": head, "brain": brain, "spacing": spacing,
            **({"score": list(score)} if score else {}), "about": about or {},
        }  # fmt: skip
        self.score = list(score) or [1.0, 0.0, 0.0]
        self.ground = Ground(load_segmenter(brain), spacing)
        self.encoder = self.build_encoder({**encoder, "inputs": CHANNELS})
        self.head = config.build(
            "heads", {"name": "segment", **head}, channels=self.encoder.channels, strides=self.encoder.strides,
            classes=1,
        )  # fmt: skip
        for part in (self.encoder, self.head):
            part.to(memory_format=torch.channels_last_3d)  # a quarter less time for a step on CPU

    def forward(self, x: Tensor) -> list[Tensor]:
        """x: (B, 11, D, H, W) -> logits (B, 1, D, H, W), coarser ones after them in training."""
        x = x.contiguous(memory_format=torch.channels_last_3d)
        logits: list[Tensor] = self.head(self.encoder(x, None), x.shape[2:])
        return logits

    @torch.no_grad()
    def chances(self, x: Tensor) -> Tensor:
        """x: (1, 11, D, H, W) -> (1, 1, D, H, W), the mean over a scan, its mirror image and both bright for dark."""
        inverse = x.clone()
        inverse[:, :GREYS] *= -1
        with halved(x.device.type):
            seen = [self(image)[0].float().sigmoid() for image in (x, inverse)]
            seen += [self(image.flip(4))[0].float().sigmoid().flip(4) for image in (x, inverse)]
        return torch.stack(seen).mean(0)

    @torch.no_grad()
    def probabilities(self, scan: Scan) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Of a lesion in each voxel (d, h, w) of about `spacing` mm of the scan; and which of them lie on the left.

        Raises ScanError: too little of a head is in the scan.
        """
        x, where = self.ground.read(scan)
        chance = self.chances(x[None].to(self.device)).cpu() * (self.ground.tissues.brain > 0.05)
        found = F.grid_sample(chance, where.flip(-1)[None], align_corners=False)[0, 0]
        left = self.ground.low[2] + (where[..., 2] + 1) / 2 * (self.ground.high - self.ground.low)[2] < 0
        return found.numpy(), left.numpy()


def load_finder(name: str | Path, *, device: str = "cpu") -> LesionFinder:
    """Load a shipped model of lesions by name, or a folder that training left; see `load_stored`."""
    return load_stored(LesionFinder, name, device=device)
