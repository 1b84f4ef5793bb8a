"""PNG, JPEG, TIFF and BMP pictures through Pillow: 16 bits kept, EXIF orientation applied, grey told from colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medfm.errors import ScanError
from medfm.scan.limits import check_size
from medfm.scan.orientation import diagonal_affine
from medfm.scan.raw import RawScan, Request, choose_frame
from medfm.scan.values import colour_or_grey

__all__ = ["read_picture"]

_GREY = {"1", "L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"}


def read_picture(path: Path, request: Request) -> RawScan:
    """Read one picture as (1, 1, H, W) grey or (3, 1, H, W) uint8 RGB, as displayed."""
    from PIL import Image, ImageOps

    notes: list[str] = []
    try:
        with Image.open(path, formats=("PNG", "JPEG", "TIFF", "BMP")) as picture:
            kind = "JPEG" if picture.format == "MPO" else str(picture.format)  # MPO: a JPEG with previews
            check_size((picture.height, picture.width), 4, request.shown)
            if kind != "JPEG":  # a JPEG's further pictures are previews
                picture.seek(choose_frame(getattr(picture, "n_frames", 1), request, "pages"))
            check_size((picture.height, picture.width), 4, request.shown)
            array = _pixels(ImageOps.exif_transpose(picture), notes)
    except ScanError:
        raise
    except Image.DecompressionBombError:
        raise ScanError(f"{request.shown}: the header says an absurd number of pixels; the file is damaged.") from None
    except MemoryError:
        raise ScanError(f"{request.shown}: the picture does not fit in memory.") from None
    except Exception as error:  # Pillow's plugins raise many types on damaged files
        raise ScanError(
            f"{request.shown}: the picture is truncated or damaged ({type(error).__name__}). Export it again."
        ) from None
    return RawScan(
        data=colour_or_grey(array)[:, None],
        affine=diagonal_affine((1.0, 1.0, 1.0)),
        source=f"{kind} picture",
        frame="image",
        spacing_known=False,
        notes=notes,
    )


def _pixels(picture: object, notes: list[str]) -> NDArray:
    """Decode to (H, W) or (H, W, 3); transparency is put on black."""
    from PIL import Image

    assert isinstance(picture, Image.Image)
    if picture.mode in _GREY:
        return np.asarray(picture)
    if picture.mode in {"LA", "PA", "RGBA", "RGBa", "La"} or "transparency" in picture.info:
        layered = picture.convert("RGBA")
        if np.asarray(layered.getchannel("A")).min() < 255:
            notes.append("The picture has transparent parts; they were put on black.")
        black = Image.new("RGBA", layered.size, (0, 0, 0, 255))
        return np.asarray(Image.alpha_composite(black, layered).convert("RGB"))
    return np.asarray(picture.convert("RGB"))
