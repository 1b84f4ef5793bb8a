"""Losses as functions of logits and targets."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FlowLoss", "SegmentLoss", "deep_loss", "drawn_together", "map_loss", "pyramid_disagreement"]


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


class SegmentLoss(nn.Module):
    """A weighted sum of MONAI's losses between logits (B, 1 + K, D, H, W) and class numbers (B, D, H, W).

    Args:
        dice: weight of soft Dice. squared: with V-Net's denominator, sum p^2 + sum g^2 (Milletari et al. 2016), instead
            of sum p + sum g. batch: taken over the whole batch rather than sample by sample (nnU-Net's batch Dice).
        entropy: of the cross-entropy. focal: of the focal loss with exponent `gamma` (Lin et al. 2017).
        boundary: of the Hausdorff loss by distance transforms (Karimi & Salcudean 2019), slow: it runs on each class.
        background: whether Dice counts the background as a class. absent: whether Dice wants a class empty that no
            voxel of the batch is of. Of small things that most images lack it then teaches little else, and they are
            never found; without it Dice is the mean over the classes that are there, and the cross-entropy alone keeps
            the others empty.
        partial: label maps draw some of the classes and leave others out that are there: a class that no voxel of a
            sample is of may be anywhere in that sample's background, whose probability is the sum of both (marginal
            loss, Shi et al., MedIA 2021). Dice is then of what is drawn, as with absent False.
        together: (1 + K, 1 + K), whether two classes are drawn in one label map anywhere (`drawn_together`): with
            `partial`, only what is drawn with each of a sample's classes somewhere may be in its background, since
            nobody left the brain out of a CT of the liver. None: any class may.
        weights: of the classes in the cross-entropy, background first; none: all alike.
    """

    def __init__(
        self, *, dice: float = 1.0, squared: bool = False, batch: bool = True, entropy: float = 1.0, focal: float = 0.0,
        gamma: float = 2.0, boundary: float = 0.0, background: bool = False, absent: bool = True,
        partial: bool = False, together: Tensor | None = None, weights: Sequence[float] | None = None,
    ) -> None:  # fmt: skip
        from monai.losses import DiceLoss, FocalLoss, HausdorffDTLoss

        super().__init__()
        self.classes: Tensor | None
        self.together: Tensor | None
        self.entropy, self.terms = entropy, nn.ModuleList()
        self.first, self.batch, self.partial = 0 if background else 1, batch, partial
        absent = absent and not partial
        self.register_buffer("together", together, persistent=False)
        self.register_buffer("classes", None if weights is None else torch.tensor(weights), persistent=False)
        self.weights: list[float] = []
        terms = [
            (dice, DiceLoss(
                include_background=background, softmax=True, to_onehot_y=True, squared_pred=squared, batch=batch,
                smooth_nr=float(absent), smooth_dr=1.0, reduction="mean" if absent else "none",
            )),
            (focal, FocalLoss(to_onehot_y=True, use_softmax=True, gamma=gamma)),
            (boundary, HausdorffDTLoss(softmax=True, to_onehot_y=True)),
        ]  # fmt: skip
        for weight, term in terms:
            if weight:
                self.weights.append(weight)
                self.terms.append(term)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss, a scalar."""
        logits = logits.float()  # a sum over voxels in half precision is none
        if self.partial:
            logits = _of_drawn(logits, target, self.together)
        total = logits.new_zeros(())
        if self.entropy:
            total = total + self.entropy * F.cross_entropy(logits, target, self.classes)
        if logits.shape[2] == 1:  # a flat volume is a picture to MONAI's losses
            logits, target = logits[:, :, 0], target[:, 0]
        for weight, term in zip(self.weights, self.terms, strict=True):
            value = term(logits, target[:, None])
            total = total + weight * (value if value.ndim == 0 else self._of_present(value, target, logits.shape[1]))
        return total

    def _of_present(self, dice: Tensor, target: Tensor, classes: int) -> Tensor:
        """The mean of dice (classes, 1, ...), or (B, classes, 1, ...) sample by sample, over classes that are there."""
        each = _drawn(target, classes)[:, self.first :]
        there = each.any(0) if self.batch else each
        return (dice.view(there.shape) * there).sum() / there.sum().clamp(min=1)


def _drawn(target: Tensor, classes: int) -> Tensor:
    """(B, classes): whether any voxel of a sample is of a class."""
    return torch.stack([(target == value).flatten(1).any(1) for value in range(classes)], 1)


def drawn_together(maps: Iterable[Tensor], classes: int) -> Tensor:
    """(classes, classes) whether two are in one of the label maps, the background with all."""
    found = torch.eye(classes, dtype=torch.bool)
    found[0] = found[:, 0] = True
    for labels in maps:
        there = labels.unique().long()
        found[there[:, None], there] = True
    return found


def _of_drawn(logits: Tensor, target: Tensor, together: Tensor | None) -> Tensor:
    """Logits (B, 1 + K, ...) in which each sample's classes without a voxel that may be there have joined its
    background."""
    drawn = _drawn(target, logits.shape[1])
    joined = ~drawn
    if together is not None:
        joined &= drawn.float() @ (~together).float() == 0
    joined[:, 0] = True
    joined = joined.view(*joined.shape, *[1] * (logits.ndim - 2))
    background = logits.masked_fill(~joined, -torch.inf).logsumexp(1, keepdim=True)
    return torch.cat([background, logits.masked_fill(joined, -1e4)[:, 1:]], 1)


def deep_loss(loss: Callable[[Tensor, Tensor], Tensor], logits: list[Tensor], target: Tensor) -> Tensor:
    """The mean of `loss` over the finest logits and coarser ones, each level with half the weight of the one before.

    Deep supervision as in nnU-Net: target (B, D, H, W) is taken at the voxels nearest to the middles of each level's.
    """
    total, weights = logits[0].new_zeros(()), 0.0
    for level, part in enumerate(logits):
        near = target
        if level:
            near = F.interpolate(target[:, None].float(), part.shape[2:], mode="nearest-exact")[:, 0].long()
        total = total + loss(part, near) / 2**level
        weights += 1 / 2**level
    return total / weights


def pyramid_disagreement(logits: Sequence[Tensor]) -> Tensor:
    """How far the levels of a decoder, logits (B, K, D, H, W) finest first, are from their mean, less where a level is
    unsure: uncertainty rectified pyramid consistency (URPC; Luo et al., MICCAI 2021). Zero for levels that agree.

    Each level's squared distance to the mean probability counts by exp(-D), D its Kullback-Leibler divergence from the
    mean, and D itself is added, so that doubt is no way out.
    """
    size = logits[0].shape[2:]
    levels = [F.interpolate(level, size, mode="trilinear").log_softmax(1) for level in logits]
    mean = torch.stack([level.exp() for level in levels]).mean(0)
    total = mean.new_zeros(())
    for level in levels:
        divergence = F.kl_div(level, mean, reduction="none").sum(1, keepdim=True)
        trust = torch.exp(-divergence)
        total = total + ((mean - level.exp()).square() * trust).mean() / trust.mean() + divergence.mean()
    return total / len(levels)


class FlowLoss(nn.Module):
    """How unlike a warped picture is to the fixed one, and how rough its flow, by MONAI's losses.

    Args:
        ncc: weight of the local normalised cross-correlation in windows of `window` voxels (VoxelMorph's first form).
        mse: of the mean squared difference (its second form; for pictures of one contrast and scale).
        smooth: of the squared gradients of the flow, in voxels of its own grid (diffusion, Balakrishnan et al. 2019).
    """

    def __init__(self, *, ncc: float = 0.0, mse: float = 0.0, smooth: float = 1.0, window: int = 9) -> None:
        super().__init__()
        self.ncc, self.mse, self.smooth, self.window = ncc, mse, smooth, window

    def forward(self, warped: Tensor, fixed: Tensor, flow: Tensor) -> Tensor:
        """warped, fixed: (B, C, D, H, W); flow: (B, 3, d, h, w) -> a scalar.

        Volumes of one slice are compared as pictures.
        """
        from monai.losses import DiffusionLoss, LocalNormalizedCrossCorrelationLoss

        if fixed.shape[2] == 1:
            warped, fixed, flow = warped[:, :, 0], fixed[:, :, 0], flow[:, 1:, 0]
        with warnings.catch_warnings():  # MONAI indexes by a list of slices, of which PyTorch warns
            warnings.simplefilter("ignore")
            total = self.smooth * DiffusionLoss()(flow)
        if self.mse:
            total = total + self.mse * F.mse_loss(warped, fixed)
        if self.ncc:
            local = LocalNormalizedCrossCorrelationLoss(spatial_dims=fixed.ndim - 2, kernel_size=self.window)
            total = total + self.ncc * local(warped, fixed)
        result: Tensor = total
        return result
