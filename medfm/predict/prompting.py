"""One thing outlined for a box, points or a scribble on one slice, and followed through its neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medfm.grid import resample
from medfm.predict.called import verb
from medfm.predict.marking import index_of
from medfm.scan import Mask, Scan
from medfm.scan.orientation import displayed_at

if TYPE_CHECKING:
    from medfm.grid import Grid
    from medfm.prompter import Prompter

__all__ = ["outline_marked", "outline_prompted", "outline_seen"]

_LEAST_QUALITY, _LEAST_SHARE = 0.5, 0.1  # of the overlap that the model expects; of the area on the slice before


def outline_prompted(
    model: Prompter, scan: Scan, *, box: Sequence[float] | None = None, points: Sequence[Sequence[float]] = (),
    index: int = 0, through: bool = False, name: str = "thing",
) -> Mask:  # fmt: skip
    """A mask (D, H, W) of value 1 on the scan's own grid, in slice `index` of its stored array.

    box: (left, top, right, bottom) in pixels along W, H, W, H of that slice. points: (x, y, 1 on the thing or 0 off it)
    in pixels; a scribble is its points. through: also on the slices above and below, each with the box around what was
    found on the one before, until the model expects little of its mask or hardly anything is left.

    Raises ValueError: no such slice, neither box nor point on the thing, or a box without an inside.
    """
    _, depth, height, width = scan.data.shape
    if not 0 <= index < depth:
        raise ValueError(f"found slice {index}; the scan has slices 0 to {depth - 1}")
    if box is not None and not (0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height):
        raise ValueError(
            f"found the box {[float(v) for v in box]}; expected left < right and top < bottom within the slice's "
            f"{width} x {height} pixels"
        )
    grid = model.preparation(scan)
    size = (width, height)
    share = None if box is None else [float(v) / size[i % 2] for i, v in enumerate(box)]
    marks = [(float(x) / width, float(y) / height, float(on)) for x, y, on in points]
    drawn = model.draw(grid, index, box=share, points=marks)
    found = {index: drawn.probability}
    if through and (drawn.probability > 0.5).any():
        for step in (1, -1):
            found |= _followed(model, grid, drawn.probability, index, step)
    labels = np.zeros((depth, height, width), np.uint8)
    for place, probability in found.items():
        labels[place] = resample(probability[None, None], (1, height, width))[0, 0] > 0.5
    return scan.mask(labels, {1: name})


def outline_seen(
    model: Prompter, scan: Scan, *, box: Sequence[float] | None = None, points: Sequence[Sequence[float]] = (),
    index: int = 0, plane: str | None = None, through: bool = False, name: str = "marked region",
) -> Mask:  # fmt: skip
    """`outline_prompted` with slices and pixels as `Scan.slices(plane)` shows them; the mask lies on the scan's own
    grid."""
    shown, (between, row, column) = scan.slices(plane)
    seen = replace(scan, data=shown, affine=np.diag([column, row, between, 1.0]), frame="image")
    found = outline_prompted(model, seen, box=box, points=points, index=index, through=through, name=name)
    labels = np.zeros(scan.data.shape, np.uint8)[:1]
    replace(scan, data=labels).slices(plane)[0][...] = found.array  # a view: what is written into it lands in `labels`
    return scan.mask(labels[0], found.labels)


@verb
def outline_marked(
    model: Prompter, scan: Scan, *, box: tuple[Sequence[float], Sequence[float]] | None = None,
    point: Sequence[float] | None = None,
) -> Mask | None:  # fmt: skip
    """What is meant by a box drawn on a slice of any plane, or a click, and followed through the slices beside it.

    box: two corners in RAS mm that share one coordinate, or (column, row) of a picture; point: a place in the same
    space, read in the slices that the scan was acquired in. None: the model finds nothing there. Raises ScanError: a
    place outside of the scan; ValueError: neither, or a box without an inside.
    """
    ends = np.array([index_of(scan, place) for place in (box or ((point,) if point is not None else ()))])
    if not len(ends):
        raise ValueError("give a box or a point")
    plane = scan.best_plane or "axial"
    if box:
        across = int(np.ptp(ends, axis=0).argmin())
        plane = ("axial", "coronal", "sagittal")[across]
        ends[:, across] = ends[:, across].sum() // 2
    shown = displayed_at(ends, scan.data.shape[1:], plane) if scan.frame == "patient" else ends
    (index, top, left), (_, bottom, right) = shown.min(0), shown.max(0) + 1
    found = outline_seen(
        model, scan, index=int(index), plane=plane, through=True, name="Marked region",
        box=(left, top, right, bottom) if box else None, points=() if box else ((left + 0.5, top + 0.5, 1.0),),
    )  # fmt: skip
    return found if found.array.any() else None


def _followed(
    model: Prompter, grid: Grid, before: NDArray[np.float32], index: int, step: int
) -> dict[int, NDArray[np.float32]]:
    from medfm.prompter import box_of

    found: dict[int, NDArray[np.float32]] = {}
    place = index + step
    while 0 <= place < grid.shape[0]:
        around = box_of(before > 0.5)
        if around is None:
            break
        drawn = model.draw(grid, place, box=around)
        if drawn.quality < _LEAST_QUALITY or (drawn.probability > 0.5).sum() < _LEAST_SHARE * (before > 0.5).sum():
            break
        before = found[place] = drawn.probability
        place += step
    return found
