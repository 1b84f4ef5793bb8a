"""What an answer rests on, as items that a surface can show as a chip: a name, a number, and a place to go to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from medfm.scan import Box, Mask, Scan

__all__ = ["Item", "box_extent", "box_item", "items_of", "mask_items", "side_in_words"]

Which = Literal["current", "prior"]
_MIDDLE = 0.05  # nearer to the middle of the field of view than this share of its width is neither left nor right


@dataclass(frozen=True)
class Item:
    """One piece of evidence.

    number: what was measured, in words ("score 0.83", "12.4 ml"). which: the scan it lies in. place: where to look,
    (x, y, z) in RAS mm, or (column, row) in pixels of a picture; low, high: corners of a box in the same space. mask,
    value: which mask of the conversation, and which of its labels.
    """

    label: str
    number: str
    which: Which = "current"
    place: tuple[float, ...] | None = None
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    mask: int | None = None
    value: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return vars(self)


def items_of(
    scan: Scan, evidence: Iterable[Box | Mask], *, keep: Callable[[Mask], int], which: Which = "current"
) -> list[Item]:
    """Items for the evidence of an answer; `keep` puts a mask into the conversation's list and returns its number."""
    from medfm.scan import Mask

    found: list[Item] = []
    for item in evidence:
        if isinstance(item, Mask):
            found += mask_items(item, keep(item), which=which, measured=scan.spacing_known)
        else:
            found.append(box_item(scan, item, which=which))
    return found


def box_item(scan: Scan, box: Box, *, which: Which = "current", number: str | None = None) -> Item:
    """A box, with the middle of the slice in which it is clearest as the place to look."""
    place = [(low + high) / 2 for low, high in zip(box.low, box.high, strict=True)]
    plane = scan.best_plane
    if box.slice is not None and plane is not None and len(place) == 3:
        axis, backwards = {"axial": (2, False), "coronal": (1, True), "sagittal": (0, True)}[plane]
        count = scan.data.shape[3 - axis]
        index = count - 1 - box.slice if backwards else box.slice
        # only the coordinate across the slices moves; with an oblique affine the box's own middle is kept
        direction = scan.affine[:3, axis]
        if abs(direction[axis]) > 0.99 * (direction @ direction) ** 0.5:
            place[axis] = float(scan.affine[axis, 3] + direction[axis] * index)
    text = number or ("" if box.score is None else f"score {box.score:.2f}")
    text = ", ".join(filter(None, (text, side_in_words(scan, box))))
    low, high = (tuple(float(v) for v in corner) for corner in (box.low, box.high))
    return Item(box.label, text, which, tuple(float(v) for v in place), low, high)


def side_in_words(scan: Scan, box: Box) -> str:
    """On which side of the scan's middle the box lies, of the patient; nothing near the middle or for a picture."""
    if scan.frame != "patient" or len(box.low) != 3:
        return ""
    _, depth, height, width = scan.data.shape
    ends = [scan.affine[0] @ (w, h, d, 1) for w in (0, width - 1) for h in (0, height - 1) for d in (0, depth - 1)]
    away = ((box.low[0] + box.high[0]) / 2 - min(ends)) / max(max(ends) - min(ends), 1e-6) - 0.5
    return "" if abs(away) < _MIDDLE else "patient's right" if away > 0 else "patient's left"


def mask_items(mask: Mask, index: int | None, *, which: Which = "current", measured: bool = True) -> list[Item]:
    """One item for each label that occurs in a mask: its millilitres, and its middle as the place to look.

    index: of the mask in the conversation's list, None if it is not there. measured: the scan's spacing is known; else
    voxels are counted.
    """
    import numpy as np
    from scipy import ndimage

    found = []
    for value, about in mask.to_dict()["labels"].items():
        if not about["voxels"]:
            continue
        inside = mask.array == int(value)
        # the voxel of the structure nearest to its centre: a bent structure does not contain its own centre
        centre = np.array(ndimage.center_of_mass(inside))
        points = np.argwhere(inside)
        d, h, w = points[((points - centre) ** 2).sum(1).argmin()]
        place = mask.affine[:3] @ (w, h, d, 1)
        number = f"{about['ml']:.2f} ml" if about["ml"] < 10 else f"{about['ml']:.1f} ml"
        number = number if measured else f"{about['voxels']} pixels"
        found.append(Item(about["name"], number, which, tuple(map(float, place)), mask=index, value=int(value)))
    return found


def box_extent(scan: Scan, box: Box) -> list[tuple[str, float, str]]:
    """Side lengths of a box as (direction, length, unit): mm where the scan knows its spacing, else pixels."""
    sides = [high - low for low, high in zip(box.low, box.high, strict=True)]
    if len(sides) == 3:
        names = ("left to right", "front to back", "head to foot")
        # a single slice has no extent across itself that was seen
        return [
            (name, side, "mm")
            for axis, (name, side) in enumerate(zip(names, sides, strict=True))
            if scan.data.shape[3 - axis] > 1
        ]
    unit, scale = ("mm", scan.spacing[:2]) if scan.spacing_known else ("px", (1.0, 1.0))
    return [(name, side * mm, unit) for name, side, mm in zip(("wide", "high"), sides, scale, strict=True)]
