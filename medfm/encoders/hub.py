"""A foreign vision tower (CLIP, BiomedCLIP, ConvNeXt ...) by name through open_clip, as an encoder of this project."""

from __future__ import annotations

import difflib
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medfm.errors import ShapeError, UnknownName, WeightsError

__all__ = ["HubEncoder"]

_TAPS = 4  # levels taken from a tower without a pyramid of its own (ViT), evenly spaced, as UNETR does


class HubEncoder(nn.Module):
    """(B, 1 or 3, D, H, W) in [0, 1] -> pyramid (B, c, D, ceil(H / stride), ceil(W / stride)), finest first.

    The tower reads pictures, so a volume goes through slice by slice and a picture is a volume of one slice. A tower
    takes one size of picture: each slice is scaled until it fits, sides in proportion, and padded with the tower's mean
    colour; the padding is cut from the features, which are interpolated to the grid of the slice. A convolutional tower
    gives one level per stride; a ViT four levels of equal stride, from evenly spaced blocks, before its last norm.
    `mean` and `std` (3, 1, 1) are the tower's normalisation; they are saved with the weights.

    Args:
        tower: a name of `open_clip.list_models()`, "local-dir:<folder>" or "hf-hub:<organisation>/<model>".
        pretrained: open_clip's tag or a file of weights; None starts at random (as before `load_state_dict`).
            The two kinds of tower with a colon bring their own weights.
        image_size: other size of picture than the tower's own; a ViT's positions are interpolated.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, tower: str, *, pretrained: str | None = None, image_size: int | None = None) -> None:
        super().__init__()
        self.tower = _vision_tower(tower, pretrained, image_size)
        size = self.tower.image_size
        self.size: tuple[int, int] = (size, size) if isinstance(size, int) else tuple(size)
        self.register_buffer("mean", torch.tensor(self.tower.image_mean, dtype=torch.float32).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(self.tower.image_std, dtype=torch.float32).view(3, 1, 1))
        self.levels, self.channels, strides = _probe(self.tower, self.size)
        self.strides = tuple((1, *stride) for stride in strides)
        coarsest = max(max(stride) for stride in strides)
        if image_size is not None and image_size % coarsest:
            raise ShapeError(f"image_size {image_size} does not fit {tower!r}; expected a multiple of {coarsest}")
        _drop_unused(self.tower, self.levels)

    def forward(self, x: Tensor, spacing: Tensor | None = None) -> list[Tensor]:
        """x: (B, 1 or 3, D, H, W) in [0, 1] -> levels. `spacing` is not used: these towers know pixels only."""
        if x.ndim != 5 or x.shape[1] not in (1, 3) or 0 in x.shape:
            raise ShapeError(f"found an input of shape {tuple(x.shape)}, expected (B, 1 or 3, D, H, W)")
        batch, depth, shape = len(x), x.shape[2], x.shape[3:]
        slices = x.transpose(1, 2).flatten(0, 1).expand(-1, 3, -1, -1)
        scale = min(own / side for own, side in zip(self.size, shape, strict=True))
        height, width = (max(1, min(own, round(side * scale))) for own, side in zip(self.size, shape, strict=True))
        if (height, width) != tuple(shape):
            slices = F.interpolate(slices, (height, width), mode="bilinear", align_corners=False, antialias=True)
        slices = F.pad((slices - self.mean) / self.std, (0, self.size[1] - width, 0, self.size[0] - height))
        found = self.tower.forward_intermediates(slices, indices=self.levels, intermediates_only=True)
        pyramid = []
        for level, (_, down, right) in zip(found["image_intermediates"], self.strides, strict=True):
            seen = level[..., : math.ceil(height / down), : math.ceil(width / right)]
            grid = (math.ceil(shape[0] / down), math.ceil(shape[1] / right))
            if seen.shape[2:] != grid:
                seen = F.interpolate(seen, grid, mode="bilinear", align_corners=False)
            pyramid.append(seen.unflatten(0, (batch, depth)).transpose(1, 2))
        return pyramid


def _vision_tower(tower: str, pretrained: str | None, image_size: int | None) -> Any:
    import open_clip

    if ":" not in tower and tower not in open_clip.list_models():
        close = difflib.get_close_matches(tower, open_clip.list_models(), n=3)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise UnknownName(f"open_clip has no tower called {tower!r}; open_clip.list_models() names them.{hint}")
    try:
        model = open_clip.create_model(
            tower, pretrained, force_image_size=image_size, pretrained_text=False, weights_only=True
        )
    except (RuntimeError, OSError, ValueError) as error:
        raise WeightsError(
            f"the tower {tower!r} with weights {pretrained!r} cannot be had: {str(error).strip().splitlines()[0]} "
            "Give a file of weights as `pretrained`, or a folder as tower 'local-dir:<folder>' (docs/base-weights.md)."
        ) from error
    return model.visual


def _probe(tower: Any, size: tuple[int, int]) -> tuple[list[int], tuple[int, ...], list[tuple[int, int]]]:
    """Which intermediate maps make the pyramid, with their channels and strides (H, W), found on a blank picture."""
    training = tower.training
    with torch.no_grad():  # in evaluation mode, or the blank picture would enter the statistics of batch norms
        found = tower.eval().forward_intermediates(torch.zeros(1, 3, *size), intermediates_only=True)
    tower.train(training)
    maps = found["image_intermediates"]
    strides = [(size[0] // m.shape[2], size[1] // m.shape[3]) for m in maps]
    if len(set(strides)) == 1:
        picked = sorted({math.ceil(len(maps) * (tap + 1) / _TAPS) - 1 for tap in range(_TAPS)})
    else:
        picked = [index for index, stride in enumerate(strides) if stride not in strides[index + 1 :]]
    return picked, tuple(maps[index].shape[1] for index in picked), [strides[index] for index in picked]


def _drop_unused(tower: Any, levels: list[int]) -> None:
    """Remove the parts behind the last map (norm, pooling, projection): they would be saved and never trained."""
    if hasattr(tower, "trunk"):  # of timm
        tower.trunk.prune_intermediate_layers(levels, prune_norm=True, prune_head=True)
    for name in ("ln_post", "attn_pool", "attnpool", "head"):
        if getattr(tower, name, None) is not None:
            setattr(tower, name, nn.Identity())
    if getattr(tower, "proj", None) is not None:
        tower.proj = None
