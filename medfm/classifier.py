"""Classifier: encoder + pooled linear head + how a scan is read for them + its calibration; load and save."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medfm import config
from medfm.grid import Grid, GridPrepare, mirrors
from medfm.heads.bag import BagHead
from medfm.heads.classify import ClassifyHead
from medfm.stored import Stored, load_stored

__all__ = ["Classifier", "load_classifier"]

_LEAST = 32  # pixels along H and W that the shared encoder needs


class Classifier(Stored):
    """Which of `labels` a scan shows: one of them (softmax).

    `medfm.json` of its folder holds kind: "classify" and these arguments; `classify.safetensors` the weights in half
    precision, without those that a shared encoder brings along.

    Args:
        encoder: a node of configs. head: one too, of `ClassifyHead` ("classify", the default) or `BagHead`.
        labels: names of the classes.
        prepare: fields of `GridPrepare`.
        flips: axes ("D", "H", "W") along which a mirrored scan is as likely as the scan itself; those are asked, too.
        temperature: what logits are divided by, fitted on scans that no weight was trained on (Guo et al. 2017).
        points: label -> {"sensitive", "specific"}: probabilities from which the label is called present, chosen on the
            same scans for a sensitivity and for a specificity asked for (Gulshan et al., JAMA 2016).
        about: what the model is and was trained on, for people; kept as it is.
    """

    kind, file = "classify", "classify.safetensors"

    def __init__(
        self, *, encoder: dict[str, Any], head: dict[str, Any], labels: list[str], prepare: dict[str, Any],
        flips: str = "", temperature: float = 1.0, points: dict[str, dict[str, float]] | None = None,
        about: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.settings: dict[str, Any] = {
            "encoder": encoder, "head": head, "labels": labels, "prepare": prepare, "flips": flips,
            "temperature": temperature, "points": points or {}, "about": about or {},
        }  # fmt: skip
        self.labels = list(labels)
        self.preparation = GridPrepare.from_dict(prepare)
        self.encoder = self.build_encoder(encoder)
        self.head: ClassifyHead | BagHead = config.build(
            "heads", {"name": "classify", **head}, channels=self.encoder.channels, classes=len(labels)
        )

    def forward(self, x: Tensor, spacing: Tensor) -> Tensor:
        """x: (B, C, D, H, W); spacing: (B, 3) mm -> logits (B, K)."""
        logits: Tensor = self.head(self.encoder(x, spacing))
        return logits

    def mirrored(self, x: Tensor, spacing: Tensor) -> Tensor:
        """As `forward`, the mean over x and its mirror images along `flips`."""
        return torch.stack([self(x.flip(axes), spacing) for axes in mirrors(self.settings["flips"])]).mean(0)

    @torch.inference_mode()
    def probabilities(self, grid: Grid) -> Tensor:
        """(K,): calibrated probabilities of the classes."""
        return (self.mirrored(*self._shown(grid))[0] / self.settings["temperature"]).softmax(0).cpu()

    def _shown(self, grid: Grid) -> tuple[Tensor, Tensor]:
        """What the encoder reads of a grid, x (1, C, D, H, W), zeros behind a narrow one, and spacing (1, 3) mm."""
        spacing = torch.tensor(grid.spacing, dtype=torch.float32)
        _, h, w = grid.shape
        x = F.pad(grid.numbers()[None], (0, max(0, _LEAST - w), 0, max(0, _LEAST - h)))
        return x.to(self.device), spacing[None].to(self.device)

    @torch.inference_mode()
    def heat(self, grid: Grid, label: str) -> Tensor:
        """(D, H, W), 0 to 1: the class activation map of a label (Zhou et al., CVPR 2016), all pooled levels together;
        Grad-CAM (Selvaraju et al., ICCV 2017) gives the same for such a head. Of a bag, what its attention rests on."""
        x, spacing = self._shown(grid)
        pyramid, k = self.encoder(x, spacing), self.labels.index(label)
        if isinstance(self.head, BagHead):
            rows = self.head.read(self.head.bags(pyramid)[0]).attention
            levels = [self.head.level]
            maps = [rows[k if len(rows) > 1 else 0].view(1, 1, *pyramid[self.head.level].shape[2:])]
        else:
            levels, maps = self.head.levels, [m[:, k : k + 1] for m in self.head.maps(pyramid)]
        each = [_drawn(m, self.encoder.strides[level], x.shape[2:]) for m, level in zip(maps, levels, strict=True)]
        _, h, w = grid.shape
        heat = torch.stack(each).sum(0)[0, 0, :, :h, :w].relu().cpu()
        return heat / heat.max().clamp(min=1e-12)


def _drawn(cells: Tensor, stride: Sequence[int], shape: Sequence[int]) -> Tensor:
    """cells: (B, 1, d, h, w), one every `stride` voxels -> (B, 1, *shape). Sizes that strides do not divide end in the
    middle of a cell; encoders that leave out what lies at a border have fewer cells than that, spread over all."""
    whole = [max(n * s, size) for n, s, size in zip(cells.shape[2:], stride, shape, strict=True)]
    d, h, w = shape
    return F.interpolate(cells, whole, mode="trilinear", align_corners=False)[:, :, :d, :h, :w]


def load_classifier(name: str | Path, *, device: str = "cpu") -> Classifier:
    """Load a shipped classifier by name, or a folder that training left; see `medfm.stored.load_stored`."""
    return load_stored(Classifier, name, device=device)
