"""An atlas of chances fitted to one scan: pose, shape, bias field and the grey of its tissues, all at once.

Unified segmentation (Ashburner & Friston, NeuroImage 2005) and SAMSEG (Puonti et al., NeuroImage 2016): every voxel's
grey comes from a mixture of one Gaussian a tissue, whose shares an atlas gives; the atlas is moved and bent until the
scan is most likely. Nothing is learned about contrast, so any will do. Lengths are in mm, along D, H, W.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from medfm.nn.attention import centred_positions
from medfm.progress import counting

__all__ = ["Atlas", "Fit"]

_OUTSIDE = 4  # Gaussians of what lies around
_LEAST = 1e-4  # chance that every tissue has everywhere
_DARK = 0.1  # added before the logarithm of greys in 0 to 1
_STIFF = 0.005  # weight of the squared bending, in mm a knot
_SQUARE = 0.5  # of the squared stretch of the pose: heads differ by some ten per cent
_UNITS = torch.tensor([0.01, 0.01, 0.01, 1.0])[:, None]  # a step of the pose: a hundredth, or a mm


@dataclass
class Fit:
    """What was found of a scan.

    pose: (4, 3), mm to the atlas's mm. bend: (1, 3, d, h, w) mm on the box `middle` ± `half`. bias: (9,) of the log
    grey. means, widths, shares: of the Gaussians.
    """

    pose: Tensor
    middle: Tensor
    half: Tensor
    bend: Tensor | None
    bias: Tensor
    means: Tensor
    widths: Tensor
    shares: Tensor


class Atlas:
    """chances: (K + E, D, H, W), 0 to 255, of K labels and E parts of what lies around, on a grid of `spacing` mm whose
    middle is 0.

    centres: (K, 3) mm, the middle of each label. tissues: (K,) numbers from 0; labels of one number look alike.
    """

    def __init__(self, chances: Tensor, centres: Tensor, tissues: Tensor, *, spacing: float) -> None:
        labels = chances.float() / 255
        self.labels = torch.cat([(1 - labels.sum(0, keepdim=True)).clamp(min=0), labels])
        self.centres, self.known = centres.float(), len(tissues)
        more = torch.arange(len(labels) - len(tissues)) + int(tissues.max()) + 1
        self.tissues = tissues = torch.cat([tissues, more])
        self.count = int(tissues.max()) + 1
        self.groups = torch.zeros(1 + self.count, *labels.shape[1:])
        self.groups[0] = self.labels[0]
        self.groups.index_add_(0, tissues + 1, labels)
        self.half = torch.tensor(labels.shape[1:]) * spacing / 2

    def starts(self, expected: Tensor, spacing: Sequence[float]) -> list[Tensor]:
        """Poses to try, from where a network expects the labels: probabilities (1 + K, D, H, W) on a grid of `spacing`.

        The affine map of their middles onto the atlas's, held back a little, more, and to a shift.
        """
        found = expected[1:].flatten(1)
        mass = found.sum(1)
        place = _grid(expected.shape[1:], spacing).view(-1, 3)
        middles = (found @ place) / mass[:, None].clamp(min=1e-3)
        weight = mass.sqrt() * (mass * float(np.prod(spacing)) > 300)
        x = torch.cat([middles, torch.ones(len(middles), 1)], 1).double()
        w, still = weight[:, None].double(), torch.cat([torch.eye(3), torch.zeros(1, 3)]).double()
        keep = torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0])).double()
        poses = []
        for held in (0.02, 0.3, 100.0):
            much = float(weight.sum()) * 2500 * held + 1e-6
            left = x.T @ (w * x) + much * keep + 1e-6 * torch.eye(4)
            poses.append(torch.linalg.solve(left, x.T @ (w * self.centres.double()) + much * keep @ still).float())
        return poses

    @torch.enable_grad()
    def fit(self, image: Tensor, spacing: Sequence[float], starts: Sequence[Tensor], *, thin: int = 1) -> Fit:
        """image: (D, H, W) in 0 to 1, of about 3 mm. All `starts` are tried at half the resolution.

        thin: a round looks at every `thin`-th voxel along each axis, the next at others.
        """
        d, h, w = image.shape
        size = (max(1, round(d / 2)), max(1, round(h / 2)), max(1, round(w / 2)))
        small = F.adaptive_avg_pool3d(image[None, None], size)[0, 0]
        steps = [s * a / b for s, a, b in zip(spacing, image.shape, size, strict=True)]
        half = torch.tensor(image.shape) * torch.tensor(spacing) / 2
        begun = [self._begun(pose, torch.zeros(3), half) for pose in starts]
        step = counting((24 * len(begun) + 48) * small.numel() + 40 * image.numel())
        tried = [self._climb(small, steps, one, step, rounds=24, thin=thin) for one in begun]
        best = min(tried, key=lambda pair: pair[0])[1]
        best = self._begun(best.pose, *self._box(best.pose, image.shape, spacing))
        for knots, rounds, grid, mm in ((40.0, 48, small, steps), (20.0, 40, image, list(spacing))):
            count = [max(4, round(2 * float(h) / knots) + 1) for h in best.half]
            before = torch.zeros(1, 3, 2, 2, 2) if best.bend is None else best.bend
            best.bend = F.interpolate(before, count, mode="trilinear", align_corners=True)
            best = self._climb(grid, mm, best, step, rounds=rounds, thin=thin)[1]
        return best

    @torch.no_grad()
    def label(self, image: Tensor, spacing: Sequence[float], fit: Fit) -> NDArray[np.uint8]:
        """The likeliest label of each voxel of `image` (D, H, W), which may be finer than what was fitted."""
        found = np.zeros(tuple(image.shape), dtype=np.uint8)
        place = _grid(image.shape, spacing)
        for index in range(len(image)):  # slice by slice: all labels of a whole scan would take gigabytes
            there, near = self._there(place[index : index + 1], fit)
            if not (there.abs() < self.half).all(-1).any():
                continue
            chance = self._at(self.labels, there) + _LEAST / 10
            grey = self._grey(image[index : index + 1], near, fit.bias)
            likely = _likely(grey, fit)
            outside = (likely[self.count :] * fit.shares.view(-1, 1, 1, 1)).sum(0)
            chance[0] *= outside
            chance[1:] *= likely[self.tissues]
            best = chance[:, 0].argmax(0)
            found[index] = best.where(best <= self.known, 0).to(torch.uint8).numpy()
        return found

    @torch.no_grad()
    def seen_from(
        self, image: Tensor, spacing: Sequence[float], fit: Fit, place: Tensor, *, size: Sequence[float]
    ) -> Tensor:  # fmt: skip
        """What `image` (D, H, W), of voxels of `spacing` mm, shows at places (..., 3) mm of the atlas: the mean over
        voxels of `size` mm there."""
        away = torch.linalg.inv(fit.pose[:3])
        found = (place - fit.pose[3]) @ away
        for _ in range(8):  # the bend is flat enough for this to converge
            found = found + (place - self.where(found, fit)) @ away
        half = torch.tensor(image.shape) * torch.tensor(list(spacing)) / 2
        corners = torch.cartesian_prod(*[torch.tensor([-0.25, 0.25])] * 3) * torch.tensor(list(size)) @ away
        total = torch.zeros(place.shape[:-1])
        for corner in corners:
            total += self._at(image[None], (found + corner) / half * self.half)[0]
        return total / len(corners)

    def where(self, place: Tensor, fit: Fit) -> Tensor:
        """The mm of the atlas where places (..., 3) mm of the scan lie."""
        return self._there(place, fit)[0]

    def _begun(self, pose: Tensor, middle: Tensor, half: Tensor) -> Fit:
        nothing = torch.empty(0)
        return Fit(pose, middle, half, None, torch.zeros(9), nothing, nothing, nothing)

    def _box(self, pose: Tensor, shape: Sequence[int], spacing: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Middle and half the sides, in mm, of what the atlas covers of a scan."""
        place = _grid(shape, spacing)
        inside = place[((_whole(place) @ pose).abs() < self.half).all(-1)]
        if not len(inside):
            return torch.zeros(3), torch.tensor(list(shape)) * torch.tensor(list(spacing)) / 2
        low, high = inside.amin(0), inside.amax(0)
        return (low + high) / 2, (high - low) / 2

    def _climb(
        self, image: Tensor, spacing: Sequence[float], start: Fit, step: Callable[[int], None], *, rounds: int,
        thin: int = 1,
    ) -> tuple[float, Fit]:  # fmt: skip
        """Gradient steps on pose, bend and bias, with steps of expectation maximisation for the Gaussians between.

        step: hears of the voxels of each round. thin: a round looks at every `thin`-th voxel along each axis, the next
        at others.
        """
        count, place = image.numel(), _grid(image.shape, spacing)
        near = ((place - start.middle) / start.half).abs().amax(-1) <= 1
        if not near.any():
            return float("inf"), start
        cut = tuple(slice(int(i.min()), int(i.max()) + 1) for i in near.nonzero().T)
        whole, places = image[cut], place[cut]
        turns = [tuple(slice(n, None, thin) for n in first) for first in product(range(thin), repeat=3)]
        moved, bias = torch.zeros(4, 3, requires_grad=True), start.bias.clone().requires_grad_()
        rates = [{"params": [moved], "lr": 0.6 if start.bend is None else 0.2}, {"params": [bias], "lr": 0.02}]
        bend = None if start.bend is None else start.bend.clone().requires_grad_()
        if bend is not None:
            rates.append({"params": [bend], "lr": 0.5})
        descent = torch.optim.Adam(rates)
        now, value = start, float("inf")
        for number in range(rounds):
            image, place = whole[turns[number % len(turns)]], places[turns[number % len(turns)]]
            pose = start.pose + moved * _UNITS
            now = Fit(pose, start.middle, start.half, bend, bias, now.means, now.widths, now.shares)
            there, where = self._there(place, now)
            chance, grey = self._at(self.groups, there) + _LEAST, self._grey(image, where, bias)
            if number % 4 == 0:
                self._expect(
                    now, chance.detach().flatten(1), grey.detach().flatten(), rounds=2 if now.means.numel() else 6
                )
            likely = _likely(grey, now)
            shares = now.shares.view(-1, 1, 1, 1)
            total = (chance[1:] * likely[: self.count]).sum(0) + chance[0] * (likely[self.count :] * shares).sum(0)
            loss = -(total + 1e-9).log().mean() + 0.01 * bias.square().sum()
            stretch = pose[:3].T @ pose[:3] - torch.eye(3)
            loss = loss + _SQUARE * stretch.square().sum()
            if bend is not None:
                for axis in (2, 3, 4):
                    loss = loss + _STIFF * bend.diff(dim=axis).square().mean()
            descent.zero_grad()
            loss.backward()
            descent.step()
            value = float(loss.detach())
            step(count)
        last = Fit(
            (start.pose + moved * _UNITS).detach(), start.middle, start.half, None if bend is None else bend.detach(),
            bias.detach(), now.means, now.widths, now.shares,
        )  # fmt: skip
        return value, last

    def _expect(self, fit: Fit, chance: Tensor, grey: Tensor, *, rounds: int) -> None:
        """Means, widths and shares of the Gaussians, from chances (1 + tissues, N) and greys (N,)."""
        if not fit.means.numel():
            around = grey[chance[0] > 0.5] if (chance[0] > 0.5).any() else grey
            step = max(1, len(around) // 50_000)
            first = torch.quantile(around[::step], torch.linspace(0.1, 0.95, _OUTSIDE))
            fit.means = torch.cat([(chance[1:] @ grey) / chance[1:].sum(1), first])
            fit.widths = torch.full_like(fit.means, 0.4 * float(grey.std()) + 1e-3)
            fit.shares = torch.full((_OUTSIDE,), 1 / _OUTSIDE)
        usual = 0.02 * len(grey) / self.count  # voxels of deviation 0.1 that every Gaussian has seen before
        for _ in range(rounds):
            parts = torch.cat([chance[1:], chance[:1] * fit.shares[:, None]])
            parts = parts * _likely(grey, fit)
            parts /= parts.sum(0).clamp(min=1e-12)
            size = parts.sum(1)
            fit.means = (parts @ grey) / size.clamp(min=1e-3)
            off = (parts * (grey - fit.means[:, None]).square()).sum(1)
            fit.widths = ((off + usual * 0.01) / (size + usual)).sqrt().clamp(min=0.03)
            fit.shares = size[self.count :] / size[self.count :].sum().clamp(min=1e-3)

    def _there(self, place: Tensor, fit: Fit) -> tuple[Tensor, Tensor]:
        """Where places (..., 3) lie in the atlas, and in the box of the fit, -1 to 1."""
        where = (place - fit.middle) / fit.half
        there = _whole(place) @ fit.pose
        if fit.bend is not None:
            bent = F.grid_sample(fit.bend, where.flip(-1)[None], padding_mode="border", align_corners=True)
            there = there + bent[0].movedim(0, -1)
        return there, where

    def _at(self, chances: Tensor, there: Tensor) -> Tensor:
        return F.grid_sample(
            chances[None], (there / self.half).flip(-1)[None], padding_mode="border", align_corners=False
        )[0]

    def _grey(self, image: Tensor, where: Tensor, bias: Tensor) -> Tensor:
        """The logarithm of the grey without the bias field, a polynomial of the second degree."""
        d, h, w = where.clamp(-1.2, 1.2).unbind(-1)
        parts = torch.stack([d, h, w, d * d, h * h, w * w, d * h, d * w, h * w], -1)
        return (image.clamp(min=0) + _DARK).log() - parts @ bias


def _grid(shape: Sequence[int], spacing: Sequence[float]) -> Tensor:
    """mm (D, H, W, 3) of each voxel from the grid's middle."""
    d, h, w = shape
    return centred_positions((d, h, w), torch.tensor([list(spacing)]))[0].view(d, h, w, 3)


def _whole(place: Tensor) -> Tensor:
    return torch.cat([place, torch.ones(*place.shape[:-1], 1)], -1)


def _likely(grey: Tensor, fit: Fit) -> Tensor:
    """(Gaussians, ...) density of each grey, but for a constant."""
    shape = (-1, *[1] * grey.ndim)
    means, widths = fit.means.view(shape), fit.widths.view(shape)
    return (-0.5 * ((grey - means) / widths).square()).exp() / widths
