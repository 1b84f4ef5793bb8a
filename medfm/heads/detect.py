"""Boxes at every cell of a pyramid: classes and corners from shared towers (RetinaNet; with one class, a proposer)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from medfm.errors import ConfigError
from medfm.nn.anchors import grid_anchors
from medfm.nn.slices import fold, unfold
from medfm.nn.stages import ConvStage, Triple, convolution, triple

__all__ = ["Dense", "DetectHead"]


class Dense(NamedTuple):
    """logits (B, N, K) and deltas (B, N, 6) of all N anchors; anchors: (n, 6) of each level; features: (B, W, d, h, w)
    of each level, for a second look; strides of the levels; where: what an encoder of views says of the place."""

    logits: Tensor
    deltas: Tensor
    anchors: list[Tensor]
    features: list[Tensor]
    strides: list[Triple]
    where: Tensor | None = None


class DetectHead(nn.Module):
    """Feature pyramid (FPN, Lin et al. CVPR 2017; MONAI's) and two small towers that all levels share (RetinaNet, Lin
    et al. ICCV 2017): the probability of each class and the corners, relative to anchors of fixed size.

    Without `pyramid`, and on one level, it is the proposer of Faster R-CNN (Ren et al. 2015) and of DeepLung (Zhu et
    al. 2018).

    Args:
        channels, strides: of the encoder's levels, finest first. classes: independent ones (sigmoid).
        ndim: 2 looks at each slice alone. levels: which of the encoder's are used. extra: one more, half as fine.
        sizes: for each level (the extra one too) the sides of its anchors in voxels, a number or [D, H, W] each; every
            level has the same count of them. ratios: height to width at equal area, for numbers in 2D.
        width, convs: of the towers. cube: a box has the proportions of its anchor: one size for all axes (DeepLung's
            dd), not three.
        places: the towers also see where in the scan each cell lies (DeepLung's coordinates).
        prior: what every anchor's probability starts at.
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[Triple], classes: int, *, levels: list[int],
        sizes: list[list[float | list[float]]], ndim: int = 2, extra: bool = False, ratios: list[float] | None = None,
        width: int = 64, convs: int = 2, pyramid: bool = True, cube: bool = False, places: bool = False,
        prior: float = 0.01,
    ) -> None:  # fmt: skip
        from monai.networks.blocks.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

        super().__init__()
        self.width = width
        if len(sizes) != len(levels) + extra or len({len(s) for s in sizes}) != 1:
            raise ConfigError(
                f"found sizes {sizes} for {len(levels) + extra} levels; expected a list for each, all as long"
            )
        self.ndim, self.levels, self.classes, self.cube, self.places = ndim, levels, classes, cube, places
        self.strides = [strides[level] for level in levels]
        if extra:
            d, h, w = self.strides[-1]
            self.strides.append((d if ndim == 2 else 2 * d, 2 * h, 2 * w))
        self.sizes = [_anchors(kinds, ratios or [1.0], ndim) for kinds in sizes]
        self.per_cell = len(self.sizes[0])
        inputs = [channels[level] for level in levels]
        self.norms = nn.ModuleList(nn.GroupNorm(1, c) for c in inputs)
        if pyramid:
            self.fuse = FeaturePyramidNetwork(ndim, inputs, width, LastLevelMaxPool(ndim) if extra else None)
        elif len(levels) > 1:
            raise ConfigError(f"found levels {levels} without a pyramid; expected one")
        else:
            self.enter = convolution(ndim, inputs[0], width, (1, 1, 1))
        kernel = triple(3, ndim=ndim)
        seen = width + 3 * places
        self.towers = nn.ModuleList(
            ConvStage(ndim, seen, width, kernel=kernel, convs=convs, norm="group") for _ in range(2)
        )
        self.logits = convolution(ndim, width, self.per_cell * classes, kernel)
        self.deltas = convolution(ndim, width, self.per_cell * (4 if cube else 6), kernel)
        for layer, bias in ((self.logits, -math.log((1 - prior) / prior)), (self.deltas, 0.0)):
            nn.init.normal_(layer.weight, std=0.01)  # type: ignore[arg-type]
            nn.init.constant_(layer.bias, bias)  # type: ignore[arg-type]

    def forward(self, pyramid: list[Tensor], place: Tensor | None = None) -> Dense:
        """pyramid: levels (B, C, d, h, w). place: (B, 6) where the input lies in its scan, edges as shares from -1 to 1
        (default: it is the scan)."""
        batch = len(pyramid[0])
        chosen = [pyramid[level] for level in self.levels]
        levels = [norm(fold(x) if self.ndim == 2 else x) for norm, x in zip(self.norms, chosen, strict=True)]
        if hasattr(self, "fuse"):
            fused = self.fuse({str(n): x for n, x in enumerate(levels)})
            levels = list(fused.values()) if isinstance(fused, dict) else list(fused)
        else:
            levels = [self.enter(levels[0])]
        logits, deltas, features = [], [], []
        for x in levels:
            feature = unfold(x, batch) if self.ndim == 2 else x
            features.append(feature)
            if self.places:
                seen = torch.cat([feature, _coordinates(feature, place)], 1)
                x = fold(seen) if self.ndim == 2 else seen
            one, other = (tower(x) for tower in self.towers)
            logits.append(self._flat(self.logits(one), batch, self.classes))
            found = self._flat(self.deltas(other), batch, 4 if self.cube else 6)
            deltas.append(torch.cat([found[..., :3], found[..., 3:].expand(*found.shape[:2], 3)], 2))
        shapes = [(f.shape[2], f.shape[3], f.shape[4]) for f in features]
        anchors = [
            a.to(x.device) for a, x in zip(grid_anchors(shapes, self.strides, self.sizes), features, strict=True)
        ]
        return Dense(torch.cat(logits, 1), torch.cat(deltas, 1), anchors, features, self.strides)

    def _flat(self, x: Tensor, batch: int, count: int) -> Tensor:
        """(..., A * count, cells) -> (B, cells * A, count), in the order of the anchors."""
        x = unfold(x, batch) if self.ndim == 2 else x
        return x.flatten(2).unflatten(1, (self.per_cell, count)).permute(0, 3, 1, 2).flatten(1, 2)


def _anchors(kinds: Sequence[float | list[float]], ratios: Sequence[float], ndim: int) -> list[list[float]]:
    sizes: list[list[float]] = []
    for kind in kinds:
        if not isinstance(kind, int | float):
            sizes.append([float(v) for v in kind])
        elif ndim == 3:
            sizes.append([float(kind)] * 3)
        else:
            sizes += [[1.0, kind * math.sqrt(r), kind / math.sqrt(r)] for r in ratios]
    return sizes


def _coordinates(feature: Tensor, place: Tensor | None) -> Tensor:
    """(B, 3, d, h, w): where in the scan the middle of each cell lies, from -1 to 1."""
    batch, _, *shape = feature.shape
    if place is None:
        place = feature.new_tensor([-1.0, -1, -1, 1, 1, 1]).expand(batch, 6)
    axes = []
    for axis, count in enumerate(shape):
        share = (torch.arange(count, device=feature.device) + 0.5) / count
        line = place[:, axis, None] + (place[:, 3 + axis] - place[:, axis])[:, None] * share
        view = [batch, 1, 1, 1]
        view[1 + axis] = count
        axes.append(line.view(view).expand(batch, *shape))
    return torch.stack(axes, 1)
