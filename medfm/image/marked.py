"""A slice of a scan with boxes or outlines drawn on it, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medfm.image.display import slice_picture
from medfm.image.geometry import rectangle_of, slice_of
from medfm.scan.orientation import display
from medfm.scan.results import Box, Mask
from medfm.scan.scan import Scan

if TYPE_CHECKING:
    from PIL import ImageDraw

__all__ = ["marked_picture", "outlined_picture"]

_COLOURS = ("#ff5b5b", "#4fc3f7", "#ffd54f", "#81c784", "#ba68c8", "#ff8a65", "#4db6ac", "#f06292")


def marked_picture(scan: Scan, boxes: Sequence[Box], *, index: int | None = None, size: int = 640) -> NDArray[np.uint8]:
    """(rows, columns, 3): slice `index` (default: that of the first box) with the boxes that cross it, one colour a
    label, the score in percent behind the name."""
    from PIL import Image, ImageDraw

    if index is None:
        index = next((b.slice for b in boxes if b.slice is not None), 0)
    picture = Image.fromarray(slice_picture(scan, index, size=size))
    draw, names = ImageDraw.Draw(picture), []
    labels = sorted({box.label for box in boxes})
    for box in boxes:
        if not _crosses(scan, box, index):
            continue
        colour = _COLOURS[labels.index(box.label) % len(_COLOURS)]
        left, top, right, bottom = rectangle_of(scan, box.low, box.high)
        corners = (left * picture.width, top * picture.height, right * picture.width, bottom * picture.height)
        draw.rectangle(corners, outline=colour, width=2)
        words = box.label if box.score is None else f"{box.label} {100 * box.score:.0f}"
        names.append((corners[:2], words, colour))
    for name in names:  # upon all boxes
        _caption(draw, *name)
    return np.asarray(picture)


def outlined_picture(scan: Scan, mask: Mask, *, size: int = 640) -> tuple[NDArray[np.uint8], int]:
    """(rows, columns, 3): the slice that shows most of a mask on the scan's grid, with an outline of each label in a
    colour of its own, named where there are colours for all; and the slice's number, from 0."""
    from PIL import Image, ImageDraw
    from scipy import ndimage

    labels = mask.array[None]
    if scan.frame == "patient":
        labels, _ = display(labels, scan.spacing, scan.best_plane or "axial")
    index = int(np.count_nonzero(labels[0], axis=(1, 2)).argmax())
    picture = slice_picture(scan, index, size=size).copy()
    rows, columns = (
        (np.arange(after) * before // after) for before, after in zip(labels.shape[2:], picture.shape, strict=False)
    )
    shown, names = labels[0, index][rows][:, columns], []
    for number, value in enumerate(sorted(set(np.unique(shown).tolist()) & set(mask.labels))):
        inside, colour = shown == value, _COLOURS[number % len(_COLOURS)]
        picture[inside & ~ndimage.binary_erosion(inside, iterations=2)] = tuple(bytes.fromhex(colour.lstrip("#")))
        down, across = np.nonzero(inside)
        names.append(((float(across.min()), float(down.min())), mask.labels[value], colour))
    if len(names) > len(_COLOURS):
        return picture, index
    named = Image.fromarray(picture)
    for name in names:
        _caption(ImageDraw.Draw(named), *name)
    return np.asarray(named), index


def _caption(draw: ImageDraw.ImageDraw, corner: tuple[float, float], words: str, colour: str) -> None:
    """Words on a ground of the colour, above a corner of the picture or, where no room is, below it."""
    if not words:
        return
    _, top, wide, high = draw.textbbox((0, 0), words, font_size=12)
    x = max(0.0, min(corner[0], draw.im.size[0] - wide - 4))
    y = corner[1] - high - 2 if corner[1] > high + 2 else corner[1]
    draw.rectangle((x, y + top - 1, x + wide + 4, y + high + 1), fill=colour)
    draw.text((x + 2, y), words, fill="black", font_size=12)


def _crosses(scan: Scan, box: Box, index: int) -> bool:
    if len(box.low) == 2:
        return True
    back = np.linalg.inv(scan.affine)
    first, last = (slice_of(scan, (back[:3] @ [*corner, 1.0] + 0.5)[::-1].tolist()) for corner in (box.low, box.high))
    return min(first, last) <= index <= max(first, last)
