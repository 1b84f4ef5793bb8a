"""One slice of a scan as a picture for people: sensible grey levels, square pixels, radiological orientation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medfm.image.intensity import robust_range

if TYPE_CHECKING:
    from medfm.scan import Scan

__all__ = ["grey_range", "slice_picture"]

_SOFT_TISSUE = (-160.0, 240.0)  # HU: level 40, width 400


def grey_range(scan: Scan) -> tuple[float, float]:
    """The values shown as black and white: soft tissue for HU, all of 8 bit, else the 0.5th and 99.5th percentile."""
    if scan.units == "HU":
        return _SOFT_TISSUE
    if scan.data.dtype == np.uint8:
        return 0.0, 255.0
    return robust_range(scan.data)


def slice_picture(scan: Scan, index: int, *, plane: str | None = None, size: int = 640) -> NDArray[np.uint8]:
    """Slice `index` (from 0; kept within the scan) of `plane` as (rows, columns, 3) uint8, longer side `size`.

    Pixels are square: a slice with rows 5 mm apart and columns 1 mm apart is stretched, as on a viewing station.
    """
    from PIL import Image

    array, (_, row_mm, column_mm) = scan.slices(plane)
    chosen = array[:, min(max(index, 0), array.shape[1] - 1)].astype(np.float32)
    low, high = grey_range(scan)
    grey = (np.clip((chosen - low) / (high - low), 0, 1) * 255).round().astype(np.uint8)
    picture = Image.fromarray(np.broadcast_to(grey, (3, *grey.shape[1:])).transpose(1, 2, 0).copy())
    height, width = picture.height * row_mm, picture.width * column_mm
    scale = size / max(height, width)
    return np.asarray(picture.resize((max(1, round(width * scale)), max(1, round(height * scale)))))
