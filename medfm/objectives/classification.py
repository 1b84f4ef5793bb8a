"""A label for each scan: rare classes shown more often, logits adjusted to their counts, then calibrated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm.classifier import Classifier
from medfm.data.batches import Batches
from medfm.data.labels import LabelCase, label_counts, read_cases, three_sides
from medfm.data.patients import told_of_colour, told_of_split
from medfm.grid import GridPrepare
from medfm.heads.bag import BagHead
from medfm.image.boxes import sample_boxed
from medfm.image.patches import random_map, tint, vary_intensity
from medfm.metrics import best_temperature, operating_points, sorting_figures
from medfm.objectives.groups import encoder_slower

__all__ = ["Classification"]


class Classification(nn.Module):
    """Trains a `Classifier`.

    Args:
        model: `encoder` and `head` nodes.
        data: see `medfm.data.labels.three_sides`.
        prepare: fields of `GridPrepare`. patch: (D, H, W) voxels. batch: scans a step.
        balance: how much more often rare classes are shown: 0 as often as they come, 1 all alike.
        adjust: weight of the logarithm of a class's share that is added to its logit in training, so that the logits
            alone suit classes of equal size (Menon et al., ICLR 2021). smooth: label smoothing.
        degrees, zoom, flips, shift: of the random maps; shift as a share of the patch. vary: strength of the changes of
            intensity, 0 for none. tint: of those of colour, see `medfm.image.patches.tint`.
        mix: pairs of pictures are shown as one, the first to a share drawn from Beta(mix, mix), and both labels
            count to their shares (mixup; Zhang et al., ICLR 2018); 0 for none.
        sensitivity, specificity: asked for at the two operating points of each class.
    """

    def __init__(
        self, *, model: dict[str, Any], data: dict[str, Any], prepare: dict[str, Any], patch: list[int],
        batch: int = 16, balance: float = 0.5, adjust: float = 1.0, smooth: float = 0.05, degrees: float = 10.0,
        zoom: float = 0.15, shift: float = 0.08, flips: str = "", vary: float = 1.0, tint: float = 0.0,
        mix: float = 0.0, sensitivity: float = 0.95, specificity: float = 0.95, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        train, tune, held, labels = three_sides(data, seed=seed)
        preparation = GridPrepare.from_dict(prepare)
        self.cases, self.tuning = (read_cases(part, labels, preparation) for part in (train, tune))
        about = {
            **told_of_split(data, train, held), "tuned on": len(tune), "merge": data.get("merge", {}),
            **told_of_colour(self.cases, preparation),
        }  # fmt: skip
        self.network = Classifier(
            encoder=model["encoder"], head=model.get("head", {}), labels=labels, prepare=prepare, flips=flips,
            about=about,
        )  # fmt: skip
        self.patch = (patch[0], patch[1], patch[2])
        self.degrees, self.zoom, self.shift, self.flips, self.vary = degrees, zoom, shift, flips, vary
        self.tint, self.mix = tint, mix
        self.smooth, self.asked = smooth, (sensitivity, specificity)
        counts = label_counts(self.cases, len(labels))
        often = [round((max(counts) / max(1, n)) ** balance) for n in counts]
        self.order = [i for i, case in enumerate(self.cases) for _ in range(often[case.label])]
        shown = torch.tensor([n * k for n, k in zip(counts, often, strict=True)]).float().clamp(min=1)
        self.register_buffer("prior", adjust * (shown / shown.sum()).log(), persistent=False)
        self.batches = Batches([0] * len(self.order), batch, seed=seed)

    def collate(self, indices: list[int]) -> dict[str, Tensor]:
        """x (B, C, *patch), target (B,) class numbers, spacing (B, 3) mm."""
        generator = self.batches.generator(indices)
        cases = [self.cases[self.order[i]] for i in indices]
        x = torch.stack([self._patch(case, generator) for case in cases])
        if self.vary:
            x = vary_intensity(x, generator, strength=self.vary)
        if self.network.preparation.bounded:
            x = x.clamp(0, 1)
        if self.tint:
            x = tint(x, generator, strength=self.tint)
        spacing, target = torch.stack([c.spacing for c in cases]), torch.tensor([c.label for c in cases])
        batch = {"x": x, "target": target, "spacing": spacing}
        if self.mix:
            drawn = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
            share = torch.tensor(drawn.beta(self.mix, self.mix, len(x)), dtype=torch.float32)
            part = share.view(-1, 1, 1, 1, 1)
            batch |= {"x": part * x + (1 - part) * x.roll(1, 0), "share": share}  # a batch comes in a random order
        return batch

    def _patch(self, case: LabelCase, generator: torch.Generator) -> Tensor:
        matrix = random_map(self.patch, case.spacing, generator, degrees=self.degrees, zoom=self.zoom, flips=self.flips)
        shape, patch = (torch.tensor(s, dtype=torch.float32) for s in (case.x.shape[1:], self.patch))
        away = (torch.rand(3, generator=generator) * 2 - 1) * self.shift * patch * (patch > 1)
        centre = ((shape - 1) / 2 + away).tolist()
        return sample_boxed(case.x.float(), torch.zeros(0, 6), centre=centre, patch=self.patch, matrix=matrix)[0]

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        head, prior, target = self.network.head, self.get_buffer("prior"), batch["target"]
        if not isinstance(head, BagHead):
            logits = self.network(batch["x"], batch["spacing"])
            loss = self._cross_entropy(logits + prior, target)
            if "share" in batch:
                other = self._cross_entropy(logits + prior, target.roll(1))
                loss = batch["share"] * loss + (1 - batch["share"]) * other
            loss = loss.mean()
        else:
            cells = head.bags(self.network.encoder(batch["x"], batch["spacing"]))
            bags = [head.read(one) for one in cells]
            logits = torch.stack([bag.logits for bag in bags])
            own = [head.instance_loss(bag, label) for bag, label in zip(bags, target.tolist(), strict=True)]
            loss = 0.7 * F.cross_entropy(logits + prior, target) + 0.3 * torch.stack(own).mean()  # CLAM's weights
        return {"loss": loss, "right": (logits.argmax(1) == batch["target"]).float().mean()}

    def _cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """(B,): of each picture."""
        return F.cross_entropy(logits, target, label_smoothing=self.smooth, reduction="none")

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """AUC, mean of the classes ("score"), and balanced accuracy on the scans to choose by; fits temperature and
        operating points on them."""
        at = self.network.device
        shown = ((case.x[None].float().to(at), case.spacing[None].to(at)) for case in self.tuning)
        logits = torch.cat([self.network.mirrored(*pair) for pair in shown]).cpu()
        truth = torch.tensor([case.label for case in self.tuning])
        temperature = best_temperature(logits, truth)
        p = (logits / temperature).softmax(1)
        points = {
            name: operating_points(p[:, k], truth == k, sensitivity=self.asked[0], specificity=self.asked[1])
            for k, name in enumerate(self.network.labels)
        }
        self.network.settings |= {"temperature": temperature, "points": {n: v for n, v in points.items() if v}}
        figures = sorting_figures(p, truth)
        return {"score": figures["auc"], "balanced_accuracy": figures["balanced_accuracy"], "temperature": temperature}

    def parameter_groups(self, rate: float) -> list[dict[str, Any]]:
        """A trained encoder learns at a third of the rate of what starts from nothing."""
        return encoder_slower(self, self.network.encoder, rate)

    def save(self, folder: Path) -> None:
        """A folder for `medfm.classifier.load_classifier`."""
        self.network.save(folder)
