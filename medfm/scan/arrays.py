"""NumPy arrays and NPY/NPZ files, never with pickled objects."""

from __future__ import annotations

import zipfile
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medfm.errors import ScanError, SeriesChoice
from medfm.scan.limits import check_room, check_size
from medfm.scan.orientation import diagonal_affine
from medfm.scan.raw import RawScan, Request, choose_frame
from medfm.scan.values import colour_or_grey

__all__ = ["raw_from_array", "read_npy", "read_npz"]


def raw_from_array(
    array: NDArray, affine: ArrayLike | None, request: Request, *, source: str = "NumPy array"
) -> RawScan:
    """Sort an array's axes into (C, D, H, W): (H, W), (H, W, 3|4) uint8, (D, H, W), (C, D, H, W) or (T, D, H, W)."""
    if array.dtype.kind not in "biuf":
        what = "complex numbers (raw data?): take the magnitude first" if array.dtype.kind == "c" else "no numbers"
        raise ScanError(f"{request.shown}: an array of {array.dtype} holds {what}; pixel values are expected.")
    if array.ndim not in (2, 3, 4):
        raise ScanError(
            f"{request.shown}: an array of shape {array.shape}; expected (H, W), (H, W, 3) uint8, (D, H, W), "
            "(C, D, H, W) with C = 1 or 3, or (T, D, H, W) with frame=."
        )
    check_size(array.shape, array.dtype.itemsize, request.shown)
    if array.ndim == 2:
        data = array[None, None]
    elif array.ndim == 3 and array.dtype == np.uint8 and array.shape[2] in (3, 4) and min(array.shape[:2]) > 4:
        data = colour_or_grey(array[..., :3])[:, None]
    elif array.ndim == 3:
        data = array[None]
    elif array.shape[0] == 1 or (array.shape[0] == 3 and array.dtype == np.uint8):
        data = array
    else:
        data = array[choose_frame(array.shape[0], request)][None]
    place = None if affine is None else np.asarray(affine, dtype=np.float64)
    return RawScan(
        data=data,
        affine=diagonal_affine((1.0, 1.0, 1.0)) if place is None else place,
        source=source,
        frame="image" if place is None else "patient",
        spacing_known=place is not None,
    )


def read_npy(path: Path, request: Request) -> RawScan:
    """Read one .npy array; its shape is checked before memory is taken."""
    with path.open("rb") as file:
        array = _load(file, path.stat().st_size, request)
    return raw_from_array(array, None, request, source="NPY array")


def read_npz(path: Path, request: Request) -> RawScan:
    """Read an .npz: `data` (or its only array, or `series=`), with `affine` or `spacing` when they are there."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            names = sorted(name for name in members if name not in ("affine", "spacing"))
            wanted = _choose(names, request)
            arrays = {}
            for name in [wanted, *(key for key in ("affine", "spacing") if key in members)]:
                info = members[name]
                check_room(info.file_size, info.compress_size + 64, request.shown, packed=True)
                with archive.open(info) as file:
                    arrays[name] = _load(file, info.file_size, request)  # type: ignore[arg-type]
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError) as error:
        raise ScanError(f"{request.shown}: the NPZ is truncated or damaged ({type(error).__name__}).") from None
    raw = raw_from_array(arrays[wanted], arrays.get("affine"), request, source="NPZ array")
    if "affine" not in arrays and "spacing" in arrays:
        spacing = np.asarray(arrays["spacing"], dtype=np.float64).ravel()
        if spacing.size != 3:
            raise ScanError(f"{request.shown}: `spacing` holds {spacing.size} numbers; expected W, H, D in mm.")
        raw.affine = np.diag([*spacing, 1.0])
        raw.spacing_known = True
    return raw


def _choose(names: list[str], request: Request) -> str:
    """The array to read out of an NPZ."""
    if isinstance(request.series, str) and request.series in names:
        return request.series
    if request.series is not None and str(request.series).isdigit() and int(request.series) < len(names):
        return names[int(request.series)]
    if request.series is None and ("data" in names or len(names) == 1):
        return "data" if "data" in names else names[0]
    if not names:
        raise ScanError(f"{request.shown}: the NPZ holds no array of pixels.")
    raise SeriesChoice(f"{request.shown}: {len(names)} arrays", names)


def _load(file: BinaryIO, available: int, request: Request) -> NDArray:
    """Read one array from an open .npy stream after checking its header."""
    damaged = ScanError(f"{request.shown}: the NPY header is damaged, or the array is truncated. Save it again.")
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except Exception:  # the header is a Python literal: anything may be wrong with it
        raise damaged from None
    if dtype.hasobject:
        raise ScanError(f"{request.shown}: the array holds pickled Python objects, which are never loaded.")
    check_size(shape or (1,), max(dtype.itemsize, 1), request.shown)
    needed = dtype.itemsize * prod(shape)
    check_room(needed, available, request.shown)
    try:
        payload = bytearray(file.read(needed))  # a bytearray gives a writable array
        return np.frombuffer(payload, dtype=dtype).reshape(shape, order="F" if fortran else "C")
    except (ValueError, OSError, EOFError, MemoryError):
        raise damaged from None
