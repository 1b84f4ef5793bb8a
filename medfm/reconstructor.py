"""Reconstructor: encoder + head + the acquisition it was trained for, as one folder; load and save."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medfm import config
from medfm.errors import ConfigError
from medfm.physics.acquire import CTAcquisition
from medfm.physics.linear import Linear
from medfm.stored import Stored, load_stored, shipped

__all__ = ["Reconstructor", "denoisers", "load_reconstructor", "unrolled"]


class Reconstructor(Stored):
    """The data of a scanner, or their direct reconstruction, to a better picture.

    `medfm.json` of its folder holds kind: "reconstruct" and these arguments; `reconstruct.safetensors` the weights in
    half precision, without those that a shared encoder brings along.

    Args:
        head: a node of configs (direct, wavelet, unrolled, admm). encoder: one, where the head takes it.
        physics: the acquisition that training simulated.
        about: what the model is and was trained on, for people; kept as it is.
    """

    kind, file = "reconstruct", "reconstruct.safetensors"

    def __init__(
        self, *, head: dict[str, Any], physics: dict[str, Any], encoder: dict[str, Any] | None = None,
        about: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.settings = {"head": head, "physics": physics, "encoder": encoder, "about": about or {}}
        self.acquisition = config.build("physics", physics)
        self.complex: bool = self.acquisition.complex
        self.hounsfield = isinstance(self.acquisition, CTAcquisition)
        channels = self.acquisition.channels * (2 if self.complex else 1)
        given = {} if encoder is None else {"encoder": encoder}
        self.head = config.build("heads", head, channels=channels, ct=self.hounsfield, **given)

    @property
    def data(self) -> bool:
        """Whether it needs the data themselves, not only a picture."""
        return bool(self.head.data)

    def scale(self, start: Tensor) -> Tensor:
        """(B, 1, 1, 1, 1): what is taken as 1; CT has its own unit, the rest the 99.5th percentile of the modulus."""
        if self.hounsfield:
            return start.new_ones(len(start), 1, 1, 1, 1)
        top = torch.quantile(start.detach().abs().flatten(1)[:, :: 1 + start[0].numel() // 2**22], 0.995, dim=1)
        return top.clamp(min=1e-12).view(-1, 1, 1, 1, 1)

    def forward(
        self, start: Tensor, y: Tensor | None = None, operator: Linear | None = None, spacing: Tensor | None = None, *,
        scale: Tensor | None = None,
    ) -> list[Tensor]:  # fmt: skip
        """start: the direct reconstruction (B, C, D, H, W), complex for MR, in units of water for CT.

        y, operator: the data and how they were measured, for heads that look at them. spacing: (B, 3) mm. scale: see
        there; given for patches, whose pictures are larger. Returns a picture a stage, the last the best.
        """
        unit = self.scale(start) if scale is None else scale
        stages = self.head(start / unit, None if y is None else y / unit, operator, spacing)
        return [stage * unit for stage in stages]

    @torch.inference_mode()
    def reconstruct(
        self, start: Tensor, y: Tensor | None = None, operator: Linear | None = None, spacing: Tensor | None = None, *,
        samples: int = 0,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """The picture, and where `samples` are asked for, the deviation of so many with dropout left on; both on the
        CPU, wherever the network lies.

        Raises ConfigError for samples of a network without dropout, and as `Linear.to` does.
        """
        self.eval()
        start = start.to(self.device)
        y, spacing = (None if part is None else part.to(self.device) for part in (y, spacing))
        operator = operator.to(self.device) if operator is not None and self.data else operator
        best = self(start, y, operator, spacing)[-1].cpu()
        if not samples:
            return best, None
        drops = [m for m in self.modules() if isinstance(m, nn.Dropout | nn.Dropout2d | nn.Dropout3d)]
        if not drops:
            raise ConfigError(
                f"samples={samples}: {self.name or 'the network'} was trained without dropout (encoder.drop); "
                "leave samples out, or give several models"
            )
        for module in drops:
            module.train()
        drawn = torch.stack([self(start, y, operator, spacing)[-1].abs().cpu() for _ in range(samples)])
        self.eval()
        return best, drawn.std(0)


def load_reconstructor(name: str | Path, *, device: str = "cpu") -> Reconstructor:
    """Load a reconstruction model by name, or a folder that training left; see `medfm.stored.load_stored`."""
    return load_stored(Reconstructor, name, device=device)


def denoisers(*, hounsfield: bool) -> list[str]:
    """Names of those that read a picture without the data it was made of: CT in HU, or other units."""
    return [
        name for name, about in shipped("reconstruct").items()
        if about["head"]["name"] in ("direct", "wavelet") and (about["physics"]["name"] == "ct") == hounsfield
    ]  # fmt: skip


def unrolled() -> dict[str, dict[str, Any]]:
    """Names of those that turn the k-space of one coil into a picture, and the acquisition of each."""
    return {
        name: {"kind": "lines", "acceleration": 4.0, **about["physics"]}
        for name, about in shipped("reconstruct").items()
        if about["physics"]["name"] == "mri" and not about["physics"].get("coils")
    }
