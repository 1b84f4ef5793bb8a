"""Few labels, many scans: where no label tells what is right, the network should at least agree with itself."""

from __future__ import annotations

import copy
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm.losses import pyramid_disagreement

__all__ = ["Agreement"]


class Agreement(nn.Module):
    """What `Supervised` holds against the network on patches without labels, which the network sees recoloured.

    `form` says with what it should agree:

    - "teacher": its own moving average, which sees the patch with a little noise; mean squared difference of the
      probabilities (Mean Teacher; Tarvainen & Valpola, NeurIPS 2017).
    - "pseudo": what it says itself of the patch as it is, where it is surer than `sure` (pseudo-labels; Lee 2013).
    - "pyramid": the mean of its decoder's levels (URPC; Luo et al., MICCAI 2021); needs deep supervision in the head.

    Args:
        network: the `Segmenter` that learns; only a copy of it is kept, for "teacher".
        weight: of the disagreement; it comes in over the first `ramp` steps as exp(-5 (1 - t)^2), since what an
            untrained network agrees with is worth nothing.
        decay: of the teacher, 1 - 1 / (step + 1) at first. sure: probability from which a pseudo-label counts.
        patches: without labels, a step.
    """

    steps: Tensor

    def __init__(
        self, network: nn.Module, *, form: Literal["teacher", "pseudo", "pyramid"] = "teacher", weight: float = 1.0,
        ramp: int = 200, decay: float = 0.99, sure: float = 0.8, patches: int = 2,
    ) -> None:  # fmt: skip
        super().__init__()
        self.form, self.weight, self.ramp, self.decay = form, weight, ramp, decay
        self.sure, self.patches = sure, patches
        self.teacher = copy.deepcopy(network).requires_grad_(False) if form == "teacher" else None
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))  # a resumed run goes on along the ramp

    def share(self) -> float:
        """What the disagreement counts at this step."""
        return self.weight * math.exp(-5 * (1 - min(1.0, float(self.steps) / self.ramp)) ** 2)

    def shown(self, calm: Tensor, generator: torch.Generator) -> Tensor:
        """Patches (B, C, D, H, W) as the one sees them with whom the network should agree."""
        if self.form != "teacher":
            return calm
        spread = calm.std((1, 2, 3, 4), keepdim=True)
        return calm + spread * (0.1 * torch.randn(calm.shape, generator=generator)).clamp(-0.2, 0.2)

    def forward(self, network: nn.Module, logits: list[Tensor], calm: Tensor, spacing: Tensor) -> Tensor:
        """How far `logits`, finest first, of the recoloured patches are from what `form` makes of the `calm` ones."""
        self.steps += 1
        if self.form == "pyramid":
            return pyramid_disagreement(logits)
        with torch.no_grad():
            wanted = (network if self.teacher is None else self.teacher)(calm, spacing)[0].softmax(1)
        if self.form == "teacher":
            return F.mse_loss(logits[0].softmax(1), wanted)
        surest, label = wanted.max(1)
        counts = surest > self.sure
        return (F.cross_entropy(logits[0], label, reduction="none") * counts).sum() / counts.sum().clamp(min=1)

    @torch.no_grad()
    def follow(self, network: nn.Module) -> None:
        """The teacher, if there is one, takes a step towards the network."""
        if self.teacher is None:
            return
        decay = min(1 - 1 / (float(self.steps) + 1), self.decay)
        for ahead, behind in zip(network.state_dict().values(), self.teacher.state_dict().values(), strict=True):
            if behind.is_floating_point():
                behind.lerp_(ahead, 1 - decay)
            else:
                behind.copy_(ahead)
