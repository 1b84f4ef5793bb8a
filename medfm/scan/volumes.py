"""NIfTI through nibabel, read (rescaled once, integers kept) and written."""

from __future__ import annotations

import gzip
import struct
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfm.errors import ScanError
from medfm.scan.limits import check_room, check_size
from medfm.scan.raw import RawScan, Request, choose_frame
from medfm.scan.values import colour_or_grey, rescale

__all__ = ["read_nifti", "write_nifti"]

_UNITS_TO_MM = {1: 1000.0, 3: 0.001}  # NIfTI codes for metre and micrometre; 0 (unknown) and 2 (mm) stay


def read_nifti(path: Path, request: Request) -> RawScan:
    """Read a .nii or .nii.gz, NIfTI-1 or NIfTI-2, as (C, D, H, W) in file order with nibabel's affine."""
    import nibabel

    damaged = f"{request.shown}: the NIfTI file is truncated or damaged"
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        opener: Any = gzip.open if packed else open
        with opener(path, "rb") as stream:
            head = stream.read(540)
            stream.seek(0)
            second = head[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c")
            if head[344:348] == b"ni1\x00" or head[4:7] == b"ni2":
                raise ScanError(
                    f"{request.shown}: a NIfTI header whose voxels are in another file. Convert it to .nii."
                )
            _check_pixdim(head, second, request)
            image: Any = (nibabel.Nifti2Image if second else nibabel.Nifti1Image).from_stream(stream)
            return _from_image(image, path.stat().st_size, packed, request)
    except ScanError:
        raise
    except Exception as error:  # header, zlib and numpy errors of many types
        raise ScanError(f"{damaged} ({type(error).__name__}). Copy or convert it again.") from None


def _check_pixdim(head: bytes, second: bool, request: Request) -> None:
    """Refuse a voxel size of zero or less where the affine is made of it; nibabel would put 1 mm without a word."""
    order = "<" if head[0] in (0x5C, 0x1C) else ">"
    if second:
        sides, sizes = struct.unpack_from(order + "q", head, 16)[0], struct.unpack_from(order + "4d", head, 104)
        sform = struct.unpack_from(order + "i", head, 348)[0]
    else:
        sides, sizes = struct.unpack_from(order + "h", head, 40)[0], struct.unpack_from(order + "4f", head, 76)
        sform = struct.unpack_from(order + "h", head, 254)[0]
    used = sizes[1 : 1 + min(max(sides, 0), 3)]
    if sform <= 0 and not all(size > 0 for size in used):
        text = " x ".join(f"{size:g}" for size in used)
        raise ScanError(f"{request.shown}: the header gives a voxel size of {text} mm; each must be a positive length.")


def _from_image(image: Any, available: int, packed: bool, request: Request) -> RawScan:
    """Check the header's promises, then read the chosen frame."""
    header = image.header
    shape = tuple(int(side) for side in header.get_data_shape())
    dtype = header.get_data_dtype()
    check_size(shape, dtype.itemsize, request.shown)
    check_room(prod(shape) * dtype.itemsize, available, request.shown, packed=packed)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    colour = dtype.names is not None
    if len(shape) > 4 or dtype.kind == "c":
        raise ScanError(f"{request.shown}: a NIfTI of shape {shape} and type {dtype} is not a picture (vectors?).")
    proxy = image.dataobj
    unscaled = np.asanyarray(proxy.get_unscaled()).reshape(shape, order="F")
    if len(shape) == 4:
        unscaled = unscaled[..., choose_frame(shape[3], request)]
    elif request.frame is not None:
        choose_frame(1, request)
    unscaled = np.array(unscaled, order="K").reshape((*unscaled.shape, 1, 1)[:3], order="F")  # copy: not a file map
    notes: list[str] = []
    data = _channels(unscaled) if colour else rescale(unscaled, proxy.slope, proxy.inter).transpose(2, 1, 0)[None]
    affine = np.asarray(image.affine, dtype=np.float64)
    known = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    if not known:
        notes.append("The NIfTI header gives no orientation (both codes 0); left and right are taken as nibabel does.")
    scale = _UNITS_TO_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    if scale != 1.0:
        affine = np.diag([scale, scale, scale, 1.0]) @ affine
        notes.append("The header gives its lengths in metres or micrometres; they were turned into mm.")
    return RawScan(data=data, affine=affine, source="NIfTI", notes=notes)


def _channels(rgb: NDArray) -> NDArray:
    """Structured RGB(A) voxels (W, H, D) to (C, D, H, W) uint8."""
    volume = np.stack([rgb["R"], rgb["G"], rgb["B"]], axis=-1).transpose(2, 1, 0, 3)
    d, h, w, _ = volume.shape
    return colour_or_grey(volume.reshape(d * h, w, 3)).reshape(-1, d, h, w)


def write_nifti(path: Path, data: NDArray, affine: NDArray[np.float64], *, axes: str = "RAS") -> None:
    """Write (C, D, H, W) data with its affine, into a folder that is made if need be; no more goes into the header.

    axes: where the file's axes shall grow to (see `orientation.axes_of`). Voxels are flipped and transposed for it, so
    that they lie as in the file they come from: programs that compare arrays without affines find them in place.
    """
    import nibabel

    if not path.name.endswith((".nii", ".nii.gz")):
        raise ScanError(f"{path.name}: scans are written as NIfTI; end the name in .nii or .nii.gz.")
    if data.shape[0] == 3:
        volume = np.zeros(data.shape[:0:-1], dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
        for channel, name in enumerate("RGB"):
            volume[name] = data[channel].transpose(2, 1, 0)
    else:
        volume = data[0].transpose(2, 1, 0)
    image = nibabel.Nifti1Image(volume, affine)
    if axes != "RAS":
        turn = nibabel.orientations.ornt_transform(
            nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(tuple(axes))
        )
        image = image.as_reoriented(turn)
    image.header.set_xyzt_units("mm")
    image.set_sform(image.affine, code=1)
    image.set_qform(None, code=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
