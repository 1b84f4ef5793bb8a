"""A volume of any size through a network, tile by tile: blended, normalised and decided in place, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medfm.progress import counting

__all__ = ["Part", "label_tiles", "starts"]

Part = tuple[slice, slice, slice]
Shape = tuple[int, int, int]
_OVERLAP = 0.5  # of tiles, as a share of their sides


def label_tiles(
    predict: Callable[[Part], Tensor], shape: Shape, *, patch: Shape, classes: int, budget: int = 1 << 30
) -> NDArray[np.uint8]:
    """The likeliest class of each voxel, (D, H, W); tiles overlap by half, there by the mean weighted with a Gaussian.

    The weights fall off from each tile's middle with a deviation of an eighth of the patch (nnU-Net, Isensee et al.
    2021). The sums are kept, in half precision, for the slab of slices that later tiles still reach only; what a slab
    leaves behind is decided at once. The largest of sums needs no division by the sum of weights. Where even a slab of
    all classes exceeds `budget` bytes, strips of rows are done one after another, and tiles on their borders twice: so
    memory does not grow with the number of classes.

    predict: part of the volume -> class probabilities (classes, d, h, w).
    """
    d, h, w = shape
    size = (min(patch[0], d), min(patch[1], h), min(patch[2], w))
    if size == shape:
        return _likeliest(predict((slice(0, d), slice(0, h), slice(0, w)))).numpy()
    labels = np.zeros(shape, dtype=np.uint8)
    high = max(16, budget // (2 * classes * size[0] * w))
    strips = [slice(top, min(top + high, h)) for top in range(0, h, high)]
    fronts, tops, lefts = (starts(n, side, _OVERLAP) for n, side in zip(shape, size, strict=True))
    rows = [[top for top in tops if top < strip.stop and strip.start < top + size[1]] for strip in strips]
    step = counting(len(fronts) * sum(map(len, rows)) * len(lefts))

    def counted(part: Part) -> Tensor:
        found = predict(part)
        step()
        return found

    bell = _bell(size)
    for strip, here in zip(strips, rows, strict=True):
        _label_strip(counted, labels, strip, bell, places=(fronts, here, lefts), classes=classes)
    return labels


def starts(size: int, patch: int, overlap: float) -> list[int]:
    """Where tiles begin along an axis: evenly, overlapping by at least `overlap`, the last one ending at the border."""
    if size <= patch:
        return [0]
    step = max(1, round(patch * (1 - overlap)))
    count = -(-(size - patch) // step) + 1
    return [round(i * (size - patch) / (count - 1)) for i in range(count)]


def _label_strip(
    predict: Callable[[Part], Tensor], labels: NDArray[np.uint8], strip: slice, bell: Tensor, *,
    places: tuple[list[int], list[int], list[int]], classes: int,
) -> None:  # fmt: skip
    depth, _, width = labels.shape
    d, h, w = bell.shape
    sums = torch.zeros(classes, d, strip.stop - strip.start, width, dtype=torch.float16)
    first = 0  # the slice that sums[:, 0] stands for
    for front in places[0]:
        _decide(sums, labels, strip, first, front)
        first = front
        for row in places[1]:
            low, high = max(row, strip.start), min(row + h, strip.stop)
            for column in places[2]:
                found = predict((slice(front, front + d), slice(row, row + h), slice(column, column + w)))
                place = sums[:, :, low - strip.start : high - strip.start, column : column + w]
                for one, there in zip(
                    found, place, strict=True
                ):  # class by class: the product is small and short-lived
                    there += (one * bell)[:, low - row : high - row].half()
    _decide(sums, labels, strip, first, depth)


def _decide(sums: Tensor, labels: NDArray[np.uint8], strip: slice, first: int, stop: int) -> None:
    """Write the labels of slices `first` to `stop`, and move the sums of the slices after them to the front."""
    count = stop - first
    for index in range(count):
        labels[first + index, strip] = _likeliest(sums[:, index]).numpy()
    if count:
        for one in sums:  # where tiles are single slices nothing is moved, all is cleared
            one[:-count] = one[count:].clone()
            one[-count:] = 0


def _likeliest(scores: Tensor) -> Tensor:
    """`scores.argmax(0)` as bytes, class by class: torch's own takes several times as long over such an axis."""
    best, found = scores[0].clone(), torch.zeros(scores.shape[1:], dtype=torch.uint8)
    for number, one in enumerate(scores[1:], 1):
        found.masked_fill_(one > best, number)
        torch.maximum(best, one, out=best)
    return found


def _bell(size: Shape) -> Tensor:
    lines = []
    for n in size:
        axis = torch.arange(n) - (n - 1) / 2
        lines.append(torch.exp(-0.5 * (axis / (n / 8)).square()).clamp(min=1e-2))
    return lines[0][:, None, None] * lines[1][:, None] * lines[2]
