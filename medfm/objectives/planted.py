"""Learns to find lesions in brains of any contrast, painted with lesions in them on an atlas's grid."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm.data import lesions
from medfm.data.batches import Batches
from medfm.data.brain import Head, random_voxel, read_heads, value_names
from medfm.finder import LesionFinder
from medfm.image import synthesis
from medfm.nn.tissues import GREYS
from medfm.objectives.groups import at_one_rate

__all__ = ["Planted"]

_HARD, _HEAVY = 500, 10.0  # one in so many voxels is hard, and counts so much more
_BRAIN = 0.05  # chance of brain from which a voxel is looked at
_SMALL = (lesions.VOLUMES[0], 0.905)  # ml of spheres of 5 and 12 mm
_FINE = 2  # images are painted with voxels that much smaller and averaged: a voxel holds parts of several tissues


class Planted(nn.Module):
    """Trains a `LesionFinder` on patches of painted scans that lie on the atlas as a fit would leave them, mm off.

    Half of the patches hold a lesion, each size as often, so that a step sees many small ones, and the greys of `batch`
    scans: of whole scans, nearly all voxels are healthy, and small lesions were hardly ever learned.

    Args:
        model: `encoder`, `head`, `brain` and `spacing` of the `LesionFinder`.
        data: `train` and `validate`, lists of label maps with FreeSurfer's numbers; the two must not share people.
        share: of the scans that have lesions: up to `most` under 12 mm in half of them, in the others one to five of 5
            to 40 mm. distract: chance of each of several things that are no lesion, see
            `medfm.data.synthetic.synthetic_scan`.
        warp: mm of deviation by which structures may lie beside their places.
        samples: scans, painted when first wanted and kept (7 MB each), so `train.ahead` is not for this.
        patch: voxels along each axis. batch: patches a step. repeats: of each scan in a pass.
        looks: scans of each held person after a pass, every second one with a lesion.
    """

    def __init__(
        self, *, model: dict[str, Any], data: dict[str, Any], share: float = 0.85, most: int = 16,
        distract: float = 0.3, warp: float = 4.0, samples: int = 60, patch: int = 32, batch: int = 8, repeats: int = 1,
        looks: int = 4, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.heads, self.held = ([h.healthy() for h in read_heads(data[key])] for key in ("train", "validate"))
        self.network = LesionFinder(
            **model,
            about={
                "data": "label maps of heads; every image was synthetic", "trained on": [h.name for h in self.heads],
                "held out": [h.name for h in self.held], "modalities": ["MR"],
            },
        )  # fmt: skip
        for last in self.network.head.logits:
            nn.init.constant_(last.bias, -4.0)  # lesions are rare
        self.share, self.most, self.distract, self.warp, self.looks = share, most, distract, warp, looks
        ground = self.network.ground
        self.size = [n * _FINE for n in ground.places.shape[:3]]
        self.spacing = [float(s) / _FINE for s in ground.steps]
        self.middle = ground.places.reshape(-1, 3).mean(0)
        centres = ground.brain.get_buffer("centres").double()
        self.ways = {h.name: _onto(h, centres, ground.brain.labels) for h in (*self.heads, *self.held)}
        self.patch, self.samples = patch, samples
        self.batches = Batches([0] * samples * repeats, batch, seed=seed)
        self.kept: dict[tuple[str, int], dict[str, Tensor]] = {}

    def collate(self, indices: list[int]) -> dict[str, Tensor]:
        """x (B, 11, d, h, w); target (B, 1, d, h, w), the share of lesion in each voxel; weight, alike; inside, where
        brain is.

        A scan comes back in another guise: another patch, mirrored, bright for dark, of more contrast or less.
        """
        generator = self.batches.generator(indices)
        made = [self._patch(self._kept(self.heads, i % self.samples), generator) for i in indices]
        return {name: torch.stack([one[name] for one in made]) for name in made[0]}

    def _patch(self, scan: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        brain = self.network.ground.tissues.brain > _BRAIN
        likely = (scan["target"] * scan["weight"]).float()[0]
        if not likely.any() or torch.rand((), generator=generator) < 0.5:
            likely = brain.float()
        middle = int(likely.flatten().multinomial(1, generator=generator))
        cut: list[slice] = []
        for at, size in zip(np.unravel_index(middle, brain.shape), brain.shape, strict=True):
            off = int(torch.randint(self.patch // 8, self.patch - self.patch // 8, (), generator=generator))
            first = min(max(0, int(at) - off), max(0, size - self.patch))
            cut.append(slice(first, first + self.patch))
        patch = {name: t[(slice(None), *cut)].float() for name, t in scan.items()} | {"inside": brain[None][:, *cut]}
        sign, mirrored = torch.rand(2, generator=generator).round()
        patch["x"][:GREYS] *= (2 * sign - 1) * (0.15 * torch.randn((), generator=generator)).exp()
        return {name: t.flip(3) for name, t in patch.items()} if mirrored else patch

    def _kept(self, heads: list[Head], number: int) -> dict[str, Tensor]:
        """The painted scan of that number, in half precision: to paint it takes longer than to learn from it."""
        head = heads[number % len(heads)]
        if (key := (head.name, number)) not in self.kept:
            seed = hash((self.batches.seed, number, heads is self.held)) % 2**63
            generator = torch.Generator().manual_seed(seed)
            made = self._one(head, generator, number // len(heads) % 2 if heads is self.held else None)
            self.kept[key] = {name: t.half() for name, t in made.items()}
        return self.kept[key]

    def _one(self, head: Head, generator: torch.Generator, count: int | None) -> dict[str, Tensor]:
        """count: of lesions; none: a random one, see `share`."""
        points = synthesis.random_points(
            self.size, spacing=self.spacing, generator=generator, degrees=4, zoom=0.06, shift=3, warp=self.warp,
            knots=30,
        )  # fmt: skip
        way = self.ways[head.name]
        points = points @ way[:3] + (self.middle @ way[:3] + way[3])
        labels = synthesis.sample_labels(head.labels, points, spacing=head.spacing, centre=head.centre)
        mask = head.targets()[labels.long()]
        means, deviations = synthesis.random_contrast(*head.looks(), generator=generator)
        if torch.rand((), generator=generator) < self.distract:
            wanted = lesions.widened(mask, spacing=self.spacing, generator=generator)
            labels, mask = head.wider(labels, mask, wanted), wanted
        ill, small, many = torch.rand(3, generator=generator).tolist()
        volumes = lesions.VOLUMES
        if count is None:
            count = int(ill < self.share) * (1 + int(5 * many))
            if count and small < 0.5:
                count, volumes = self.most // 2 + int(self.most * many / 2) + 1, _SMALL
        planted, _ = lesions.plant(mask, count, volumes, self.spacing, generator)
        image, _ = head.paint(
            labels, mask, means, deviations, planted=planted, spacing=self.spacing, distract=self.distract,
            generator=generator,
        )  # fmt: skip
        voxel = random_voxel(generator, low=1.0, high=3.0)
        image = synthesis.acquire(image, spacing=self.spacing, target=voxel, generator=generator)
        image = F.interpolate(image[None, None], self.size, mode="trilinear", align_corners=False)
        weights = self._weights(image[0, 0], planted, mask)
        image = synthesis.normalise(F.avg_pool3d(image, _FINE)[0, 0])
        gamma = torch.exp(0.3 * torch.randn((), generator=generator))
        x = self.network.ground.tissues.channels(image.pow(gamma))
        target = F.avg_pool3d((planted > 0).float()[None], _FINE)
        weight = F.max_pool3d(weights[planted.long()][None], _FINE).where(target > 0, 1)
        return {"x": x, "target": target, "weight": weight}

    def _weights(self, image: Tensor, planted: Tensor, mask: Tensor) -> Tensor:
        """What a voxel of each value of `planted` counts. So that small lesions are learned as well, a large one counts
        little more than they do; one that cannot be told from its surroundings is neither right nor wrong."""
        weights = torch.zeros(int(planted.max()) + 1)
        brain = (mask > 0) & (planted == 0)
        for number in range(1, len(weights)):
            lesion = planted == number
            if lesions.contrast(image, lesion, brain, self.spacing) >= lesions.VISIBLE:
                weights[number] = (4000 / max(50.0, float(lesion.sum()) * math.prod(self.spacing))) ** 0.8
        return weights

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        loss, total = torch.zeros(()), 0.0
        for level, logits in enumerate(self.network(batch["x"])):
            size = logits.shape[2:]
            target, weight = (F.adaptive_avg_pool3d(batch[key], size) for key in ("target", "weight"))
            inside = F.adaptive_max_pool3d(batch["inside"].float(), size) > 0
            loss, total = loss + _loss(logits.float(), target, weight, inside) / 2**level, total + 1 / 2**level
        return {"loss": loss / total}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """On new images of people held out, the same after every pass: how well the highest probability within each
        lesion and that of each image outside of lesions are told apart (area under the curve)."""
        from torchmetrics.functional.classification import binary_auroc

        tops, truth = [], []
        for number in range(self.looks * len(self.held)):
            batch = {name: t.float()[None] for name, t in self._kept(self.held, number).items()}
            chance, target = self.network(batch["x"])[0].sigmoid(), batch["target"] * (batch["weight"] > 0)
            tops += [chance[F.max_pool3d(batch["target"], 5, 1, 2) == 0].max()]
            truth += [0]
            if target.max() > 0.5:
                tops += [chance[target > 0.5].max()]
                truth += [1]
        return {"score": float(binary_auroc(torch.stack(tops), torch.tensor(truth)))}

    def parameter_groups(self, rate: float) -> list[dict[str, Any]]:
        return at_one_rate(self, rate)

    def save(self, folder: Path) -> None:
        """`medfm.json` and `lesions.safetensors`, see `LesionFinder`."""
        self.network.save(folder)


def _loss(logits: Tensor, target: Tensor, weight: Tensor, inside: Tensor) -> Tensor:
    """Weighted cross-entropy plus the Dice of V-Net over all lesions of the batch.

    The healthy voxels that look most like a lesion weigh like one (Shrivastava et al., CVPR 2016): a few of them are
    enough to call a healthy brain ill. All (B, 1, D, H, W); inside: where brain is.
    """
    p, count = logits.sigmoid(), int(inside.sum())
    healthy = (p.detach() * (inside & (target == 0))).flatten()
    hard = torch.zeros_like(healthy).index_fill_(0, healthy.topk(count // _HARD).indices, _HEAVY)
    weight = (weight + hard.view_as(weight)) * inside
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * weight
    dice = 1 - (2 * (weight * p * target).sum() + 1) / ((weight * (p.square() + target.square())).sum() + 1)
    return 100 * entropy.sum() / max(1, count) + dice * bool(target.max() > 0.1)


def _onto(head: Head, centres: Tensor, names: list[str]) -> Tensor:
    """(4, 3): mm of the atlas to mm from the middle of a person's brain, of least squares between the middles of the
    structures (K, 3)."""
    numbers = {n: v for v, n in value_names().items()}
    mask = head.targets()[head.labels.long()]
    known, found = list(10 * torch.eye(3, 4).double()), list(10 * torch.eye(3).double())  # where middles say nothing
    for name, centre in zip(names, centres, strict=True):
        inside = (mask == numbers[name]).nonzero()
        if len(inside):
            known.append(F.pad(centre, (0, 1), value=1))
            found.append((inside.double().mean(0) - torch.tensor(head.centre)) * torch.tensor(head.spacing))
    way: Tensor = torch.linalg.lstsq(torch.stack(known), torch.stack(found)).solution
    return way.float()
