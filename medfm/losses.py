"""Losses as functions of logits and targets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["map_loss"]


def map_loss(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Cross-entropy plus Dice of independent structure maps, over those (image, structure) pairs that are labelled.

    logits, target: (B, K, ...), target in [0, 1]; known: (B, K) 0 or 1. Dice is taken per structure over the whole
    batch, with the squared denominator of V-Net (Milletari et al., 3DV 2016), since most structures are absent from
    most images.
    """
    weight = known.view(*known.shape, *[1] * (logits.ndim - 2)).expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    focus = (target - logits.sigmoid()).abs()  # focal weight, gamma = 1 (Lin et al., ICCV 2017)
    entropy = (entropy * focus * weight).sum() / weight.sum().clamp(min=1)
    p = logits.sigmoid() * weight
    axes = (0, *range(2, logits.ndim))
    size = (target * weight).square().sum(axes)
    dice = 1 - (2 * (p * target).sum(axes) + 1) / (p.square().sum(axes) + size + 1)
    present = size > 0
    return 20 * entropy + (dice * present).sum() / present.sum().clamp(min=1)


def soft_max_pool(logits: Tensor, *, sharpness: float = 4.0) -> Tensor:
    """(B, K, ...) -> (B, K): a smooth maximum, so that presence teaches more than one cell of the map."""
    flat = logits.flatten(2)
    return torch.logsumexp(flat * sharpness, -1).sub(torch.log(torch.tensor(float(flat.shape[-1])))).div(sharpness)
