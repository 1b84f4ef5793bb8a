"""What a scan on an atlas's grid should look like, and how it does: the greys of its tissues, and what they leave open.

Bias field and one Gaussian a kind of tissue, by expectation maximisation with an atlas's chances (Van Leemput et al.,
IEEE TMI 1999), beside a flat density of what fits none, so that a lesion moves neither. Nothing is learned about
contrast. Arrays are (D, H, W) with W to the Right.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["CHANNELS", "GREYS", "Tissues"]

CHANNELS = 11
GREYS = 6  # of them, the first: in a scan with bright for dark their signs are the other way round
_CLASSES = {
    "white": ("cerebral white matter", "cerebellar white matter"),
    "grey": ("cerebral cortex", "cerebellar cortex", "hippocampus", "amygdala"),
    "fluid": ("cerebrospinal fluid", "third ventricle", "fourth ventricle", "lateral ventricle"),
}  # the rest is deep
_OUTLIER = 0.02  # share of voxels that fit no tissue, before anything is seen
_ROUNDS = 8
_EVERY = 3  # voxels of which one is looked at for that: neighbours tell the same
_EVERYWHERE = 1e-3  # chance of each class outside of its place
_DARK = 0.1  # added before the logarithm of greys in 0 to 1, as in `medfm.nn.atlas`


class Tissues:
    """chances: (K, D, H, W) of the labels `names`, say "left putamen", 0 to 1, on the grid of the scans to come."""

    def __init__(self, chances: Tensor, names: Sequence[str]) -> None:
        kinds = [n.removeprefix("left ").removeprefix("right ") for n in names]
        each = {kind: chances[[i for i, k in enumerate(kinds) if k == kind]].sum(0) for kind in dict.fromkeys(kinds)}
        chance = torch.stack(list(each.values()))
        self.chance = (chance + chance.flip(3)) / 2
        self.brain = self.chance.sum(0)
        told = {kind: number for number, group in enumerate(_CLASSES.values()) for kind in group}
        self.classes = torch.tensor([told.get(kind, len(_CLASSES)) for kind in each])
        self.shown = self.brain > 0.02
        d, h, w = (
            axis[self.shown]
            for axis in torch.meshgrid(*[torch.linspace(-1, 1, n) for n in self.brain.shape], indexing="ij")
        )
        powers = [(a, b, c) for a in range(5) for b in range(5) for c in range(5) if 0 < a + b + c < 5]
        self.waves = torch.stack([d**a * h**b * w**c for a, b, c in powers])
        chance, count = self.chance[:, self.shown], len(_CLASSES) + 1
        self.used = self.brain[self.shown] > 0.5
        self.taught = self.used.nonzero().flatten()[::_EVERY]
        self.certain, self.bent = chance[:, self.taught], self.waves[:, self.taught]
        self.maybe = chance + _EVERYWHERE
        # of the means of a class's tissues, the share that each has in a place
        local = chance + _EVERYWHERE * self.chance.mean((1, 2, 3))[:, None]
        total = torch.zeros(count, local.shape[1]).index_add_(0, self.classes, local)
        self.local = local / total[self.classes].clamp(min=1e-9)
        self.places = torch.zeros(count, local.shape[1]).index_add_(0, self.classes, chance)

    def channels(self, image: Tensor) -> Tensor:
        """(11, D, H, W) of `image` in 0 to 1, 0 outside the brain.

        The grey without its bias field, its mirror image, how far it is from what white matter, grey matter, fluid and
        deep nuclei have in this place, how well any tissue explains it, and the chances of these four. Greys are
        logarithms in deviations of the brain's.
        """
        grey = (image + _DARK).log()[self.shown]
        means, widths, bias = _explained(grey[self.taught], self.certain, self.bent)
        grey = grey - bias @ self.waves
        here = grey[self.used]
        middle, spread = here.median(), here.std().clamp(min=1e-3)
        z = (grey - means[:, None]) / widths[:, None]
        likely = (self.maybe * (-0.5 * z.square()).exp() * (spread / widths)[:, None]).sum(0)
        own = (grey - middle) / spread
        mean = torch.zeros_like(self.places).index_add_(0, self.classes, self.local * means[:, None])
        found = torch.cat([own[None], (grey - mean) / spread, (likely + 1e-9).log().clamp(min=-9)[None] / 3])
        whole = torch.zeros(CHANNELS, *self.brain.shape)
        whole[0, self.shown], whole[2:7, self.shown] = own.clamp(-6, 6), found[1:].clamp(-6, 6)
        whole[1] = whole[0].flip(2)
        whole[7:, self.shown] = self.places
        return whole


def _explained(grey: Tensor, chance: Tensor, waves: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means and widths (K,) of the kinds of tissue, and the weights of the bias field's waves.

    grey: (N,); chance: (K, N); waves: (B, N).
    """
    spread = float(grey.std()) + 1e-3
    certain = chance.square()
    means = (certain @ grey) / certain.sum(1).clamp(min=1e-6)
    widths = torch.full_like(means, 0.4 * spread)
    usual = 0.002 * len(grey)  # voxels of a tenth of the spread that every tissue has seen before
    bias, flat = torch.zeros(len(waves)), grey
    ridge = 1e-3 * len(grey) * torch.eye(len(waves))
    for number in range(_ROUNDS):
        parts = chance * (-0.5 * ((flat - means[:, None]) / widths[:, None]).square()).exp() / widths[:, None]
        parts /= parts.sum(0) + _OUTLIER / (4 * spread)
        size = parts.sum(1)
        means = (parts @ flat + 1e-3 * means) / (size + 1e-3)
        off = (parts * (flat - means[:, None]).square()).sum(1)
        widths = ((off + usual * (0.1 * spread) ** 2) / (size + usual)).sqrt().clamp(min=0.02)
        if 0 < number < _ROUNDS - 1:
            trust = (parts / widths[:, None].square()).sum(0) * spread**2
            rest = grey - (parts * means[:, None] / widths[:, None].square()).sum(0) * spread**2 / trust.clamp(min=1e-6)
            trust = trust / trust.mean()
            bias = torch.linalg.solve((waves * trust) @ waves.T + ridge, (waves * trust) @ rest)
            flat = grey - bias @ waves
    return means, widths, bias
