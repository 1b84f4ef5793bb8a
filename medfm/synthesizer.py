"""Networks that make pictures, each as one folder: one kind of scan from another, or a picture from noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medfm import assets
from medfm.nn.translate import ResidualGenerator
from medfm.stored import Stored, load_stored

__all__ = ["Sampler", "Translator", "load_synthesizer"]

_FILE = "synthesize.safetensors"


class Translator(Stored):
    """Slices of one kind of scan as the other kind would show them, and back (CycleGAN, Zhu et al., ICCV 2017).

    Args:
        generator: arguments of `ResidualGenerator`. size: pixels of the square slices.
        hounsfield: of each of the two kinds, whether its numbers are HU, -1000 to 1000, or its own range.
        about: what the model is and was trained on, for people; kept as it is.
    """

    kind, file = "translate", _FILE

    def __init__(
        self, *, generator: dict[str, Any], size: int, hounsfield: list[bool], about: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.size, self.hounsfield = size, hounsfield
        self.settings = {"generator": generator, "size": size, "hounsfield": hounsfield, "about": about or {}}
        self.there, self.back = ResidualGenerator(**generator), ResidualGenerator(**generator)

    def forward(self, x: Tensor, *, back: bool = False) -> Tensor:
        """x: (B, 1, size, size) in [-1, 1] of the first kind, `back` of the second -> the other kind."""
        made: Tensor = (self.back if back else self.there)(x)
        return made


class Sampler(Stored):
    """Slices from noise: a diffusion model (Ho et al., NeurIPS 2020), MONAI's U-Net and schedulers.

    Args:
        unet: arguments of MONAI's `DiffusionModelUNet`. size: pixels of the square slices.
        steps: of the noise, beta from 1e-4 to 0.02. hounsfield: whether the numbers are HU.
        about: as in `Translator`.
    """

    kind, file = "sample", _FILE

    def __init__(
        self, *, unet: dict[str, Any], size: int, steps: int = 1000, hounsfield: bool = False,
        about: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet
        from monai.networks.schedulers.ddim import DDIMScheduler

        super().__init__()
        self.size, self.hounsfield = size, hounsfield
        self.settings = {"unet": unet, "size": size, "steps": steps, "hounsfield": hounsfield, "about": about or {}}
        self.unet = DiffusionModelUNet(spatial_dims=2, in_channels=1, out_channels=1, **unet)
        self.schedule = DDIMScheduler(num_train_timesteps=steps, schedule="linear_beta", beta_start=1e-4, beta_end=0.02)
        self.steps = steps

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The noise that is in x (B, 1, size, size) after t (B,) steps."""
        noise: Tensor = self.unet(x, timesteps=t)
        return noise

    def noised(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x after t steps, in one: sqrt(a) x + sqrt(1 - a) noise, a the product of 1 - beta."""
        done: Tensor = self.schedule.add_noise(x, noise, t)
        return done

    @torch.inference_mode()
    def sample(self, count: int, generator: torch.Generator, *, looks: int = 50) -> Tensor:
        """(count, 1, size, size) in [-1, 1], by `looks` steps without fresh noise (DDIM; Song et al., ICLR 2021)."""
        x = torch.randn(count, 1, self.size, self.size, generator=generator).to(self.device)
        return self._cleared(x, self.steps, looks).cpu()

    @torch.inference_mode()
    def healed(self, x: Tensor, generator: torch.Generator, *, level: float = 0.35, looks: int = 25) -> Tensor:
        """x (B, 1, size, size) with noise of a `level` share of the steps, cleared again: as the pictures of training
        would have it (AnoDDPM's idea, Wyatt et al. 2022, with Gaussian noise)."""
        last = max(1, round(level * self.steps))
        noise, t = torch.randn(x.shape, generator=generator), torch.full((len(x),), last - 1)
        begun = self.noised(*(part.to(self.device) for part in (x, noise, t)))
        return self._cleared(begun, last, looks).cpu()

    def _cleared(self, x: Tensor, last: int, looks: int) -> Tensor:
        """From step `last` to a picture in equal strides, since MONAI's own list always starts at the end."""
        times = torch.linspace(last - 1, 0, min(looks, last)).round().long().tolist()
        alphas = self.schedule.alphas_cumprod
        for here, there in zip(times, [*times[1:], None], strict=True):
            noise = self(x, torch.full((len(x),), here, device=x.device))
            a = alphas[here]
            b = torch.ones(()) if there is None else alphas[there]
            clean = ((x - (1 - a).sqrt() * noise) / a.sqrt()).clamp(-1, 1)
            x = b.sqrt() * clean + (1 - b).sqrt() * noise
        return x


def load_synthesizer(name: str | Path, *, device: str = "cpu") -> Translator | Sampler:
    """Load a model by name, or a folder that training left; see `medfm.stored.load_stored`."""
    if assets.kind_of(name) == Translator.kind:
        return load_stored(Translator, name, device=device)
    return load_stored(Sampler, name, device=device)
