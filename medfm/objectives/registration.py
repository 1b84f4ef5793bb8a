"""Two scans onto each other: likeness of pictures or of labels, smoothness of the flow; also contrast-free."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm.data.batches import Batches
from medfm.data.pairs import Side, both_sides, draw_pairs
from medfm.data.patients import told_of_split
from medfm.data.volumes import VolumeCase
from medfm.grid import GridPrepare
from medfm.image.patches import random_map, sample_patch, vary_intensity
from medfm.image.synthesis import acquire, bias_field, normalise, paint, random_contrast
from medfm.losses import FlowLoss
from medfm.metrics import label_dice
from medfm.nn.warp import jacobian, warp
from medfm.objectives.groups import at_one_rate
from medfm.registrar import Registrar
from medfm.segmenter import load_segmenter

__all__ = ["Registration"]

Case = tuple[Tensor, Tensor]  # a picture (C, D, H, W) and its class numbers (D, H, W)
_BEYOND = 16  # voxels that a painted scan goes on beyond its border


class Registration(nn.Module):
    """Trains a `Registrar` on pairs.

    VoxelMorph (Balakrishnan et al., TMI 2019) compares pictures, and labels where `dice` is above 0 (its auxiliary
    form). SynthMorph (Hoffmann et al., TMI 2022) compares labels only, of pictures painted from them anew each time
    (`synthesis`), so that no contrast is learned.

    Args:
        model: `encoder` and `head` nodes, `symmetric`, `start`: see `Registrar`; `guide`, the name or folder of a
            segmentation model.
        data: see `medfm.data.pairs.both_sides`.
        prepare: fields of `GridPrepare`. patch: (D, H, W) voxels around the middle of each scan that are registered.
        batch: pairs a step.
        loss: arguments of `FlowLoss`. dice: weight of the soft Dice of the labels.
        synthesis: pictures are painted from the labels: {"clusters": intensity classes of what is not labelled}.
        degrees, zoom, flips: of the random maps (`medfm.image.patches.random_map`), drawn for both scans apart.
        shift: mm by which each is moved, likewise. vary: strength of the changes of intensity, 0 for none.
        both: also learn the inverse, by which the fixed scan is warped onto the moving one; needs a velocity.
        checked: held-out pairs looked at after a pass.
    """

    def __init__(
        self, *, model: dict[str, Any], data: dict[str, Any], prepare: dict[str, Any], patch: list[int], batch: int = 2,
        loss: dict[str, Any] | None = None, dice: float = 0.0, synthesis: dict[str, int] | None = None,
        degrees: float = 10.0, zoom: float = 0.1, shift: float = 2.0, flips: str = "", vary: float = 1.0,
        both: bool = False, checked: int = 40, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.side, self.held, names = both_sides(data, GridPrepare.from_dict(prepare), seed=seed)
        guide = load_segmenter(model["guide"]) if model.get("guide") else None
        alone = {k: v for k, v in guide.settings.items() if k != "members"} if guide else None  # it looks without them
        settings = {**model, "guide": alone} if guide else model
        self.network = Registrar(**settings, prepare=prepare, about=_about(data, self.side, self.held, names))
        if self.network.guide is not None and guide is not None:
            self.network.guide.load_state_dict(guide.state_dict())
        for case in [*self.side.cases, *self.held.cases]:  # the guide looks once at each scan, not at each patch
            case.x = self._looked(case).half()
        self.channels = self.network.preparation.channels
        self.labels, self.patch = names, (patch[0], patch[1], patch[2])
        self.degrees, self.zoom, self.shift, self.flips, self.vary = degrees, zoom, shift, flips, vary
        self.loss, self.dice, self.both = FlowLoss(**(loss or {})), dice, both
        self.clusters = (synthesis or {}).get("clusters", 4)
        self.tissues: list[Tensor] = []
        if synthesis is not None:
            self.tissues = [tissues(case, self.clusters, known=len(names)) for case in self.side.cases]
        self.pairs = self.held.pairs or draw_pairs(len(self.held.cases), checked, seed=0)
        self.batches = Batches([0] * len(self.side.pairs or self.side.cases), batch, seed=seed)

    def _looked(self, case: VolumeCase) -> Tensor:
        return self.network.look(case.x[None].float(), case.spacing[None])[0]

    def collate(self, indices: list[int]) -> dict[str, Tensor]:
        """moving, fixed (B, C, *patch), and their labels (B, *patch) class numbers."""
        generator = self.batches.generator(indices)
        rows: list[tuple[Case, Case]] = []
        for index in indices:
            if self.side.pairs:
                moving, fixed = self.side.pairs[index]
            else:  # any other case, each as likely
                other = int(torch.randint(len(self.side.cases) - 1, (), generator=generator))
                moving, fixed = other + (other >= index), index
            rows.append((self._case(moving, generator), self._case(fixed, generator)))
        batch = {}
        for name, part in zip(("moving", "fixed"), zip(*rows, strict=True), strict=True):
            x = torch.stack([picture for picture, _ in part])
            if self.vary and not self.tissues:
                plain = vary_intensity(x[:, : self.channels], generator, strength=self.vary)
                x = torch.cat([plain, x[:, self.channels :]], 1)
            batch[name], batch[f"{name}_labels"] = x, torch.stack([labels for _, labels in part])
        return batch

    def _case(self, index: int, generator: torch.Generator) -> Case:
        case = self.side.cases[index]
        matrix = random_map(self.patch, case.spacing, generator, degrees=self.degrees, zoom=self.zoom, flips=self.flips)
        moved = (torch.rand(3, generator=generator) * 2 - 1) * self.shift / case.spacing
        known = len(self.labels) + 1
        source, classes = (self.tissues[index], known + self.clusters) if self.tissues else (case.labels, known)
        x = source[None].float() if self.tissues else case.x.float()
        centre = [(n - 1) / 2 + float(m) for n, m in zip(source.shape, moved, strict=True)]
        x, labels = sample_patch(x, source, centre=centre, patch=self.patch, matrix=matrix, classes=classes)
        if not self.tissues:
            return x, labels
        return self._painted(labels, case, generator), labels.where(labels < known, 0)

    def _painted(self, labels: Tensor, case: VolumeCase, generator: torch.Generator) -> Tensor:
        """A picture (1, D, H, W) in [0, 1] of random contrast, as SynthMorph's images are made."""
        count = len(self.labels) + 1 + self.clusters
        unknown = torch.full((count, 3), torch.nan)
        means, deviations = random_contrast(torch.arange(count), unknown, generator=generator, related=0.0)
        picture = paint(labels, means, deviations, generator=generator)
        picture = picture * bias_field(picture.shape, generator=generator, strength=0.3)
        spacing = case.spacing.tolist()
        return normalise(acquire(picture, spacing=spacing, target=spacing, generator=generator))[None]

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        moving, fixed = (self.network.shrunk(batch[name]) for name in ("moving", "fixed"))
        a, b = (self._shares(batch[f"{name}_labels"]) for name in ("moving", "fixed"))
        flow = self.network.flow(moving, fixed)
        parts = self._parts(flow, moving, fixed, a, b)
        if self.both:
            back = self._parts(-flow, fixed, moving, b, a)
            parts = {name: (value + back[name]) / 2 for name, value in parts.items()}
        return parts

    def _shares(self, labels: Tensor) -> Tensor:
        """(B, D, H, W) class numbers -> (B, K, ...), how much of each voxel that the network reads is of each class."""
        return self.network.shrunk(_one_hot(labels, len(self.labels)))

    def _parts(self, flow: Tensor, moving: Tensor, fixed: Tensor, shares: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        u = self.network.head.displacement(flow, (fixed.shape[2], fixed.shape[3], fixed.shape[4]))
        a, b = (x[:, : self.channels] for x in (moving, fixed))
        loss = self.loss(warp(a, u) if self.loss.mse or self.loss.ncc else b, b, flow)
        if not self.dice or not self.labels:
            return {"loss": loss}
        from monai.losses import DiceLoss

        soft = DiceLoss(smooth_nr=1.0, smooth_dr=1.0)(warp(shares, u, padding="zeros"), wanted)
        return {"loss": loss + self.dice * soft, "dice": 1 - soft.detach()}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Over held-out pairs, centres aligned: mean Dice of the labels ("score") and before, folded voxels in %.

        Without labels the score is minus the loss.
        """
        rows = []
        for moving, fixed in self.pairs:
            (a, before), (b, truth) = (self._plain(self.held.cases[i]) for i in (moving, fixed))
            flow = self.network(a, b)
            u = self.network.head.displacement(flow, self.patch, finer=self.network.shrink)
            folded = 100 * (jacobian(u) <= 0).float().mean()
            if not self.labels:
                shown = slice(0, self.channels)
                rows.append(torch.stack([-self.loss(warp(a[:, shown], u), b[:, shown], flow), folded]))
                continue
            after = warp(before[:, None].float(), u, mode="nearest", padding="zeros")[:, 0].long()
            scores = [label_dice(labels, truth, len(self.labels)).nanmean() for labels in (after, before)]
            rows.append(torch.stack([*scores, folded]))
        names = ["score", "before", "folding"] if self.labels else ["score", "folding"]
        return dict(zip(names, torch.stack(rows).nanmean(0).tolist(), strict=True))

    def _plain(self, case: VolumeCase) -> tuple[Tensor, Tensor]:
        centre = [(n - 1) / 2 for n in case.labels.shape]
        classes = len(self.labels) + 1
        x, labels = sample_patch(
            case.x.float(), case.labels, centre=centre, patch=self.patch, matrix=torch.eye(3), classes=classes
        )
        return x[None].to(self.network.device), labels[None].to(self.network.device)

    def parameter_groups(self, rate: float) -> list[dict[str, Any]]:
        """All that learns, at one rate."""
        return at_one_rate(self, rate)

    def save(self, folder: Path) -> None:
        """A folder for `medfm.registrar.load_registrar`."""
        self.network.save(folder)


def tissues(case: VolumeCase, clusters: int, *, known: int) -> Tensor:
    """(D, H, W) uint8: the labels, and after them what is not labelled in classes of like intensity.

    Billot et al. (2023) divide what they have no labels for in the same way, so that every voxel can be painted. The
    map goes on beyond the border of the scan, as the scan itself does when it is registered.
    """
    labels = case.labels.clone()
    blurred = F.avg_pool3d(case.x[None].float(), 3, 1, 1, count_include_pad=False)[0, 0]
    rest = labels == 0
    edges = torch.quantile(blurred[rest], torch.linspace(0, 1, clusters + 1)[1:-1])
    labels[rest] = (known + 1 + torch.bucketize(blurred[rest], edges)).to(torch.uint8)
    beyond = F.pad(labels[None, None].float(), [_BEYOND] * 6, mode="replicate")
    return beyond[0, 0].to(torch.uint8)


def _one_hot(labels: Tensor, classes: int) -> Tensor:
    """(B, D, H, W) numbers -> (B, classes, D, H, W), without the background."""
    return F.one_hot(labels, classes + 1)[..., 1:].movedim(-1, 1).float()


def _about(data: dict[str, Any], side: Side, held: Side, names: list[str]) -> dict[str, Any]:
    extents = torch.stack([torch.tensor(c.labels.shape) * c.spacing for c in side.cases])
    return {
        **told_of_split(data, side.cases, held.cases),
        "labels": names,
        "extent mm": extents.amax(0).round().int().tolist(),
    }
