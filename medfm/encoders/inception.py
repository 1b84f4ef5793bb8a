"""Inception-v3 as an encoder of one level, for the protocols that were published with it; torchvision's."""

from __future__ import annotations

from torch import Tensor, nn

from medfm.errors import ShapeError
from medfm.nn.slices import fold, unfold

__all__ = ["InceptionEncoder"]


class InceptionEncoder(nn.Module):
    """(B, 3, D, H, W) -> one level of 2048 channels at stride 32 (Szegedy et al., CVPR 2016). Each slice is read alone.

    Starts from random weights: those of ImageNet come from a hub, see docs/base-weights.md; `start` takes a safetensors
    file of torchvision's names.
    """

    def __init__(self, *, start: str = "") -> None:
        from torchvision.models import inception_v3

        super().__init__()
        body = inception_v3(weights=None, aux_logits=False, init_weights=False)
        if start:
            from safetensors.torch import load_file

            own = {n: t for n, t in load_file(start).items() if not n.startswith(("fc.", "AuxLogits."))}
            body.load_state_dict(own, strict=False)
        kept = [layer for name, layer in body.named_children() if name not in ("avgpool", "dropout", "fc")]
        self.body = nn.Sequential(*kept)
        self.channels, self.strides = (2048,), ((1, 32, 32),)

    def forward(self, x: Tensor, spacing: Tensor | None = None) -> list[Tensor]:
        """x: (B, 3, D, H >= 75, W >= 75) in [0, 1]; 299 pixels in the papers. `spacing` is not used."""
        if x.ndim != 5 or x.shape[1] != 3 or min(x.shape[3:]) < 75:
            raise ShapeError(f"found an input of shape {tuple(x.shape)}, expected (B, 3, D, H >= 75, W >= 75)")
        return [unfold(self.body(fold(x * 2 - 1)), len(x))]
