"""The shared encoder of a shipped adapter, frozen, with low-rank changes (LoRA), or free, for a task's own head."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from medfm import assets
from medfm.encoders.hybrid import HybridEncoder
from medfm.errors import AdapterMismatch

__all__ = ["SharedEncoder"]


class SharedEncoder(nn.Module):
    """`HybridEncoder` with the weights of an adapter's eye.

    Args:
        adapter: name or folder of a shipped adapter whose eye is a `hybrid`.
        tune: "none" keeps it as it is; "lora" adds low-rank changes (Hu et al., ICLR 2022; PEFT) to its pointwise
            convolutions and attention; "all" trains it; "random" starts it from nothing, for comparison.
        rank: of the changes.
        levels: of the pyramid, from the finest; see `HybridEncoder`.
        eye: sha256 of the encoder that a saved model was trained on; empty for a new one. What belongs to an older one
            would give noise on a newer one; an eye of which only other parts are newer is the same to it.

    Raises UnknownName (no such adapter), AdapterMismatch (its eye is another encoder, or not the one of `eye`).
    """

    def __init__(
        self, *, adapter: str = "default", tune: Literal["none", "lora", "all", "random"] = "lora", rank: int = 8,
        levels: int = 5, eye: str = "",
    ) -> None:  # fmt: skip
        super().__init__()
        folder = assets.adapter_folder(adapter)
        about = json.loads((folder / "medfm.json").read_text())
        node: dict[str, Any] = dict(about.get("vision", {}).get("encoder", {}))
        if node.pop("name", None) != "hybrid":
            raise AdapterMismatch(f"adapter {adapter!r} has no hybrid encoder to share; found {about.get('vision')}")
        tensors = {n: t for n, t in assets.eye_tensors(folder).items() if n.startswith("encoder.")}
        self.eye = _digest(tensors) if tune in ("none", "lora") else ""
        if eye and eye != self.eye:
            raise AdapterMismatch(
                f"this model was trained on the encoder {eye[:12]} of adapter {adapter!r}; found {self.eye[:12]} "
                "there. Put the older adapter back, or train the model again"
            )
        self.body: nn.Module = HybridEncoder(**node, levels=levels)
        self.channels, self.strides = self.body.channels, self.body.strides
        self.tune = tune
        if tune != "random":
            own = {n.removeprefix("encoder."): t.float() for n, t in tensors.items()}
            used = self.body.state_dict().keys()
            if missing := used - own.keys():
                raise AdapterMismatch(f"adapter {adapter!r} lacks tensors of its own encoder: {sorted(missing)[:3]}")
            self.body.load_state_dict({n: own[n].long() if n.endswith("tracked") else own[n] for n in used})
        else:  # its batch norms' means start from nothing and must arrive within a short training
            for layer in self.body.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.momentum = 0.1
        if tune in ("none", "lora"):
            self.body.requires_grad_(False)
        if tune == "lora":
            self._add_lora(rank)

    def _add_lora(self, rank: int) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        pointwise = [
            name
            for name, layer in self.body.named_modules()
            if isinstance(layer, nn.Linear)
            or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1)
        ]
        self.body = inject_adapter_in_model(
            LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=pointwise), self.body
        )

    def kept(self) -> set[str]:
        """Names of the tensors that come with the adapter, and so are not saved again."""
        if self.tune in ("all", "random"):
            return set()
        return {name for name in self.state_dict() if "lora_" not in name}

    def train(self, mode: bool = True) -> SharedEncoder:
        """Running statistics of a frozen body stay as they were, so its batch norms never see training mode."""
        super().train(mode)
        if self.tune in ("none", "lora"):
            self.body.eval()
        return self

    def forward(self, x: Tensor, spacing: Tensor | None = None) -> list[Tensor]:
        """x: (B, 3, D, H, W) in [0, 1]; spacing: (B, 3) mm -> levels of strides 2 to 32 in H and W."""
        pyramid: list[Tensor] = self.body(x, spacing)
        return pyramid


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names and numbers, whatever file they lie in."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode() + tensors[name].contiguous().numpy().tobytes())
    return found.hexdigest()
