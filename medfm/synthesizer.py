"""Networks that make pictures, each as one folder: one kind of scan from another, or a picture from noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medfm import assets
from medfm.errors import AdapterMismatch, UnknownName
from medfm.nn.translate import ResidualGenerator

__all__ = ["Sampler", "Translator", "load_synthesizer"]

_FILE = "synthesize.safetensors"


class Translator(nn.Module):
    """Slices of one kind of scan as the other kind would show them, and back (CycleGAN, Zhu et al., ICCV 2017).

    Args:
        generator: arguments of `ResidualGenerator`. size: pixels of the square slices.
        hounsfield: of each of the two kinds, whether its numbers are HU, -1000 to 1000, or its own range.
        about: what the model is and was trained on, for people; kept as it is.
    """

    kind = "translate"

    def __init__(
        self, *, generator: dict[str, Any], size: int, hounsfield: list[bool], about: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.about, self.size, self.hounsfield = about or {}, size, hounsfield
        self.settings = {"generator": generator, "size": size, "hounsfield": hounsfield, "about": self.about}
        self.there, self.back = ResidualGenerator(**generator), ResidualGenerator(**generator)
        self.name = ""

    def forward(self, x: Tensor, *, back: bool = False) -> Tensor:
        """x: (B, 1, size, size) in [-1, 1] of the first kind, `back` of the second -> the other kind."""
        made: Tensor = (self.back if back else self.there)(x)
        return made

    def save(self, folder: Path) -> None:
        """Write `medfm.json` and `synthesize.safetensors`."""
        _save(self, folder)


class Sampler(nn.Module):
    """Slices from noise: a diffusion model (Ho et al., NeurIPS 2020), MONAI's U-Net and schedulers.

    Args:
        unet: arguments of MONAI's `DiffusionModelUNet`. size: pixels of the square slices.
        steps: of the noise, beta from 1e-4 to 0.02. hounsfield: whether the numbers are HU.
        about: as in `Translator`.
    """

    kind = "sample"

    def __init__(
        self, *, unet: dict[str, Any], size: int, steps: int = 1000, hounsfield: bool = False,
        about: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet
        from monai.networks.schedulers.ddim import DDIMScheduler

        super().__init__()
        self.about, self.size, self.hounsfield = about or {}, size, hounsfield
        self.settings = {"unet": unet, "size": size, "steps": steps, "hounsfield": hounsfield, "about": self.about}
        self.unet = DiffusionModelUNet(spatial_dims=2, in_channels=1, out_channels=1, **unet)
        self.schedule = DDIMScheduler(num_train_timesteps=steps, schedule="linear_beta", beta_start=1e-4, beta_end=0.02)
        self.steps = steps
        self.name = ""

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
        x = torch.randn(count, 1, self.size, self.size, generator=generator)
        return self._cleared(x, self.steps, looks)

    @torch.inference_mode()
    def healed(self, x: Tensor, generator: torch.Generator, *, level: float = 0.35, looks: int = 25) -> Tensor:
        """x (B, 1, size, size) with noise of a `level` share of the steps, cleared again: as the pictures of training
        would have it (AnoDDPM's idea, Wyatt et al. 2022, with Gaussian noise)."""
        last = max(1, round(level * self.steps))
        noise = torch.randn(x.shape, generator=generator)
        return self._cleared(self.noised(x, noise, torch.full((len(x),), last - 1)), last, looks)

    def _cleared(self, x: Tensor, last: int, looks: int) -> Tensor:
        """From step `last` to a picture in equal strides, since MONAI's own list always starts at the end."""
        times = torch.linspace(last - 1, 0, min(looks, last)).round().long().tolist()
        alphas = self.schedule.alphas_cumprod
        for here, there in zip(times, [*times[1:], None], strict=True):
            noise = self(x, torch.full((len(x),), here))
            a = alphas[here]
            b = torch.ones(()) if there is None else alphas[there]
            clean = ((x - (1 - a).sqrt() * noise) / a.sqrt()).clamp(-1, 1)
            x = b.sqrt() * clean + (1 - b).sqrt() * noise
        return x

    def save(self, folder: Path) -> None:
        """Write `medfm.json` and `synthesize.safetensors`."""
        _save(self, folder)


def load_synthesizer(name: str | Path, *, device: str = "cpu") -> Translator | Sampler:
    """Load a model by name, or a folder that training left.

    Raises:
        UnknownName: no such folder, or it holds a model of another kind. AdapterMismatch: weights and settings differ.
    """
    folder = assets.adapter_folder(name)
    settings = json.loads((folder / "medfm.json").read_text())
    kind = settings.pop("kind", "answers")
    if kind not in (Translator.kind, Sampler.kind):
        raise UnknownName(f"{folder.name!r} is a model of kind {kind!r}; expected 'translate' or 'sample'")
    model: Translator | Sampler = Translator(**settings) if kind == Translator.kind else Sampler(**settings)
    tensors = {n: t.float() for n, t in load_file(folder / _FILE).items()}
    if wrong := sorted(set(tensors) ^ set(model.state_dict())):
        raise AdapterMismatch(f"{folder.name}: medfm.json and {_FILE} do not fit each other: {wrong[:3]}")
    model.load_state_dict(tensors)
    model.name = folder.name
    return model.eval().to(device)


def _save(model: Translator | Sampler, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({n: t.half().contiguous() for n, t in model.state_dict().items()}, folder / _FILE)
    (folder / "medfm.json").write_text(json.dumps({"kind": model.kind, **model.settings}, indent=1) + "\n")
