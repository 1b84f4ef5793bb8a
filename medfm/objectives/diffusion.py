"""Pictures and noise: tell the noise that was added, at any step; then pictures can be made of noise alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm.data.batches import Batches
from medfm.data.slices import both_slices, signed
from medfm.synthesizer import Sampler

__all__ = ["Diffusion", "likeness"]


class Diffusion(nn.Module):
    """Trains a `Sampler` (denoising diffusion, Ho et al., NeurIPS 2020): the mean squared error of the noise.

    Args:
        model: `unet` and `steps`, see `Sampler`. data: see `medfm.data.slices.both_slices`. hounsfield: of the scans.
        batch: slices a step. repeats: how often a pass shows each. checked: pictures made after a pass to be compared.
        flip: mirror along the last axis at random.
    """

    def __init__(
        self, *, model: dict[str, Any], data: dict[str, Any], hounsfield: bool = False, batch: int = 16,
        repeats: int = 1, checked: int = 16, flip: bool = True, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        cases, held = both_slices({"plane": None, **data}, hounsfield=hounsfield)
        self.pictures, self.held = (
            torch.cat([signed(c.image[0], hounsfield=hounsfield)[None] for c in part]) for part in (cases, held)
        )
        about = {"trained on": len(cases), "held out": sorted({c.name for c in held})}
        self.network = Sampler(**model, size=int(data.get("size", 128)), hounsfield=hounsfield, about=about)
        self.checked, self.flip = checked, flip
        self.batches = Batches([0] * len(cases) * repeats, batch, seed=seed)

    def collate(self, indices: list[int]) -> dict[str, Tensor]:
        """x (B, 1, S, S) in [-1, 1], noise like it, t (B,) steps."""
        generator = self.batches.generator(indices)
        x = self.pictures[[i % len(self.pictures) for i in indices]]
        if self.flip:
            turned = torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5
            x = torch.where(turned, x.flip(-1), x)
        t = torch.randint(self.network.steps, (len(x),), generator=generator)
        return {"x": x, "noise": torch.randn(x.shape, generator=generator), "t": t}

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        found = self.network(self.network.noised(batch["x"], batch["noise"], batch["t"]), batch["t"])
        return {"loss": F.mse_loss(found, batch["noise"])}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """The error of the noise on held-out slices ("score" is 1 - that), and `likeness` of pictures made."""
        generator = torch.Generator().manual_seed(0)
        x = self.held[: 4 * self.checked]
        t = torch.arange(len(x)) * self.network.steps // len(x)
        noise = torch.randn(x.shape, generator=generator)
        shown = {name: part.to(self.network.device) for name, part in (("x", x), ("noise", noise), ("t", t))}
        error = float(self(shown)["loss"])
        made = self.network.sample(self.checked, generator)
        return {"score": 1 - error, "error": error, **likeness(made, self.held, self.pictures)}

    def parameter_groups(self, rate: float) -> list[dict[str, Any]]:
        """All of it, at one rate."""
        return [{"params": list(self.network.parameters()), "lr": rate}]

    def save(self, folder: Path) -> None:
        """A folder for `medfm.synthesizer.load_synthesizer`."""
        self.network.save(folder)


def likeness(made: Tensor, held: Tensor, real: Tensor) -> dict[str, float]:
    """Mean squared difference to the nearest picture of training, (N, 1, S, S) each: of pictures made ("made", and the
    smallest of them, where a copy would give 0), of held-out ones ("real"), of noise with their mean and deviation."""
    noise = torch.randn(made.shape, generator=torch.Generator().manual_seed(1)) * real.std() + real.mean()

    def nearest(x: Tensor) -> Tensor:
        flat = real.flatten(1)
        mirrored = real.flip(-1).flatten(1)
        both = [torch.cdist(x.flatten(1), other).amin(1) for other in (flat, mirrored)]
        return torch.minimum(*both).square() / flat.shape[1]

    own = nearest(made.clone())
    return {"made": float(own.mean()), "made_least": float(own.min()), "real": float(nearest(held).mean()),
            "noise": float(nearest(noise).mean())}  # fmt: skip
