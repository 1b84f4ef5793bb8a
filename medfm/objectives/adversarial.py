"""The other player: a critic that tells real pictures from made ones, and likeness as an ImageNet network sees it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from medfm import assets
from medfm.encoders.hybrid import HybridEncoder
from medfm.image.intensity import Windows, windowed
from medfm.nn.critic import Critic, gradient_penalty
from medfm.nn.slices import fold

__all__ = ["Adversary", "Perceptual"]


class Adversary(nn.Module):
    """A Wasserstein critic with gradient penalty (Gulrajani et al. 2017), as WGAN-VGG uses it.

    It has an optimiser of its own and takes `steps` steps before each of the generator's, on one process. Its weights
    are in the run's checkpoints, its optimiser's moments are not: a resumed run gathers them anew.

    Args:
        patch, width, dense: see `Critic`. weight: of the score in the generator's loss. penalty: of the gradient.
        steps: of the critic for one of the generator. rate: of its Adam (betas 0.5 and 0.9).
    """

    def __init__(
        self, *, patch: int = 64, width: int = 16, dense: int = 64, weight: float = 1e-3, penalty: float = 10.0,
        steps: int = 4, rate: float = 1e-4,
    ) -> None:  # fmt: skip
        super().__init__()
        self.critic = Critic(patch=patch, width=width, dense=dense)
        self.weight, self.penalty, self.steps = weight, penalty, steps
        self.descent = torch.optim.Adam(self.critic.parameters(), lr=rate, betas=(0.5, 0.9))

    @torch.enable_grad()
    def learn(self, real: Tensor, made: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """`steps` steps on half the batch each. Returns the distance it sees and the norm of its gradient."""
        self.critic.requires_grad_(True)
        for _ in range(self.steps):
            chosen = torch.randperm(len(real), generator=generator)[: max(1, len(real) // 2)]
            a, b = real[chosen], made[chosen]
            share = torch.rand(len(a), 1, 1, 1, 1, generator=generator).to(a)
            penalty, norm = gradient_penalty(self.critic, a, b, share)
            distance = self.critic(a).mean() - self.critic(b).mean()
            self.descent.zero_grad()
            (self.penalty * penalty - distance).backward()
            self.descent.step()
        self.critic.requires_grad_(False)  # the generator's step leaves it alone
        return {"distance": distance.detach(), "norm": norm}

    def forward(self, made: Tensor) -> Tensor:
        """What the generator adds to its loss."""
        score: Tensor = -self.weight * self.critic(made).mean()
        return score


class Perceptual(nn.Module):
    """Mean squared difference of the features that ImageNet taught EfficientNet-Lite2, levels of stride 2 and 4.

    It stands in for the VGG-19 of WGAN-VGG, whose weights do not come with a package registry; the level is finer than
    VGG's last, for the patches are small.

    Args:
        ct: pictures (B, 1, D, H, W) are in units of water and shown in three wide windows: in one grey picture from air
            to bone, tissue that is too dark costs next to nothing beside noise, in the narrow ones of `CT_WINDOWS`
            noise of soft tissue outweighs all else. Else [0, 1] is black to white.
    """

    windows: Windows = ((-600, 1200), (0, 600), (500, 2000))  # (level, width) in HU; the first reaches below air

    def __init__(self, *, ct: bool) -> None:
        super().__init__()
        self.ct = ct
        self.eye = HybridEncoder(levels=2)
        self.eye.load_imagenet(load_file(assets.base_weights("efficientnet-lite2") / "model.safetensors"))
        self.eye.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Perceptual:
        """It judges and does not learn: always as in evaluation."""
        return super().train(False)

    def forward(self, x: Tensor, truth: Tensor, start: Tensor | None = None) -> Tensor:
        """The difference as a share of the truth's own features, or of the difference that `start` has; a scalar."""
        seen, true = self._features(x), self._features(truth)
        whole = [b.square() for b in true]
        if start is not None:
            whole = [(s - b).square() for s, b in zip(self._features(start), true, strict=True)]
        shares = [
            ((a - b).square().flatten(1).mean(1) / w.flatten(1).mean(1).clamp(min=1e-12)).mean()
            for a, b, w in zip(seen, true, whole, strict=True)
        ]
        return torch.stack(shares).mean()

    def _features(self, x: Tensor) -> list[Tensor]:
        """Enlarged twofold, so that the finest level has a cell for each pixel."""
        shown = windowed((x - 1) * 1000, self.windows, dim=1) if self.ct else x.expand(-1, 3, -1, -1, -1)
        flat = F.interpolate(fold(shown), scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.eye(flat[:, :, None])
