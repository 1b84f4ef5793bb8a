"""NRRD and MetaImage (MHA, MHD) through SimpleITK, behind a check of the text header: its C++ readers trust it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medfm.errors import ScanError
from medfm.scan.limits import check_room, check_size
from medfm.scan.orientation import diagonal_affine, lps_to_ras
from medfm.scan.raw import RawScan, Request, choose_frame
from medfm.scan.values import colour_or_grey

__all__ = ["read_itk"]

_HEADER_BYTES = 65_536
_NRRD_BYTES = {
    "signed char": 1, "int8": 1, "int8_t": 1, "uchar": 1, "unsigned char": 1, "uint8": 1, "uint8_t": 1,
    "short": 2, "short int": 2, "signed short": 2, "signed short int": 2, "int16": 2, "int16_t": 2,
    "ushort": 2, "unsigned short": 2, "unsigned short int": 2, "uint16": 2, "uint16_t": 2,
    "int": 4, "signed int": 4, "int32": 4, "int32_t": 4, "uint": 4, "unsigned int": 4, "uint32": 4, "uint32_t": 4,
    "longlong": 8, "long long": 8, "int64": 8, "int64_t": 8, "ulonglong": 8, "unsigned long long": 8, "uint64": 8,
    "uint64_t": 8, "float": 4, "double": 8,
}  # fmt: skip
_META_BYTES = {
    "MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4, "MET_LONG": 4,
    "MET_ULONG": 4, "MET_LONG_LONG": 8, "MET_ULONG_LONG": 8, "MET_FLOAT": 4, "MET_DOUBLE": 8,
}  # fmt: skip


@dataclass(frozen=True)
class _Promise:
    """What a text header promises about the pixels."""

    shape: tuple[int, ...]
    itemsize: int
    packed: bool
    detached: str | None
    offset: int  # where the pixels begin in an attached file
    placed: bool  # the header says how the patient lies


def read_itk(path: Path, request: Request) -> RawScan:
    """Read an NRRD or MetaImage file; 2D ones are pictures, 3D ones lie in patient space."""
    import SimpleITK

    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    nrrd = head.startswith(b"NRRD")
    try:
        promise = _nrrd(head) if nrrd else _meta(head)
    except (ValueError, KeyError, IndexError, OverflowError):
        raise ScanError(f"{request.shown}: the {'NRRD' if nrrd else 'MetaImage'} header is damaged.") from None
    _check(promise, path, request)
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # its warnings print header text and paths
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("NrrdImageIO" if nrrd else "MetaImageIO")
    reader.SetFileName(str(path))
    try:
        image = reader.Execute()
    except RuntimeError:
        raise ScanError(
            f"{request.shown}: the {'NRRD' if nrrd else 'MetaImage'} file is truncated or damaged. Convert it again."
        ) from None
    array = SimpleITK.GetArrayFromImage(image)
    direction = np.asarray(image.GetDirection()).reshape(image.GetDimension(), -1)
    place = (direction, np.asarray(image.GetSpacing()), np.asarray(image.GetOrigin()))
    return _raw(array, image.GetNumberOfComponentsPerPixel(), place, promise, request, "NRRD" if nrrd else "MetaImage")


def _raw(
    array: NDArray,
    components: int,
    place: tuple[NDArray, NDArray, NDArray],
    promise: _Promise,
    request: Request,
    source: str,
) -> RawScan:
    """(..., D, H, W[, component]) to a RawScan: colours, frames, affine."""
    direction, spacing, origin = place
    colour = components in (3, 4) and array.dtype == np.uint8
    if components > 1 and not colour:
        array = array[..., choose_frame(components, request, "components per voxel")]
    if direction.shape[0] == 4:
        array = array[choose_frame(array.shape[0], request)]
    elif components == 1 and request.frame is not None:
        choose_frame(1, request)
    flat = direction.shape[0] == 2
    if flat:
        array = array[None]
    if colour:
        d, h, w, _ = array.shape
        data = colour_or_grey(array[..., :3].reshape(d * h, w, 3)).reshape(-1, d, h, w)
    else:
        data = array[None]
    notes = []
    if flat:
        affine = diagonal_affine((float(spacing[0]), float(spacing[1]), 1.0))
    else:
        affine = np.eye(4)
        affine[:3, :3] = direction[:3, :3] * spacing[:3]
        affine[:3, 3] = origin[:3]
        affine = lps_to_ras(affine)
        if not promise.placed:
            notes.append("The header does not say how the patient lies; Left-Posterior-Superior is taken, as ITK does.")
    return RawScan(data=data, affine=affine, source=source, frame="image" if flat else "patient", notes=notes)


def _check(promise: _Promise, path: Path, request: Request) -> None:
    """Refuse what would make the C++ reader take memory, or open files elsewhere, for nothing."""
    if not 2 <= len(promise.shape) <= 5:
        raise ScanError(f"{request.shown}: {len(promise.shape)} dimensions; 2, 3 or 4 (with frame=) are read.")
    needed = check_size(promise.shape, promise.itemsize, request.shown)
    if promise.detached is None:
        check_room(needed, path.stat().st_size - promise.offset, request.shown, packed=promise.packed)
        return
    beside = path.parent / promise.detached
    if Path(promise.detached).name != promise.detached or beside.is_symlink() or not beside.is_file():
        raise ScanError(
            f"{request.shown}: the header keeps its pixels in another file, which must lie beside it (no folders)."
        )
    check_room(needed, beside.stat().st_size, request.shown, packed=promise.packed)


def _nrrd(head: bytes) -> _Promise:
    """Parse an NRRD header; ValueError or KeyError when it is damaged or outside what is read here."""
    end = next((head.index(mark) + len(mark) for mark in (b"\n\n", b"\r\n\r\n") if mark in head), 0)
    fields: dict[str, str] = {}
    for line in head[: end or len(head)].decode("latin-1").splitlines()[1:]:
        key, colon, value = line.partition(":")
        if colon and not line.startswith("#") and not value.startswith("="):
            fields[key.strip().lower()] = value.strip()
    shape = tuple(int(side) for side in fields["sizes"].split())
    if len(shape) != int(fields["dimension"]):
        raise ValueError("sizes and dimension disagree")
    encoding = fields["encoding"].lower()
    if encoding not in ("raw", "gzip", "gz", "ascii", "text", "txt", "hex"):
        raise ValueError("unknown encoding")
    detached = fields.get("data file", fields.get("datafile"))
    if detached is None and not end:
        raise ValueError("no end of header")
    for skip in ("line skip", "lineskip", "byte skip", "byteskip"):
        if int(fields.get(skip, "0")) < -1:
            raise ValueError("negative skip")
    _numbers(fields.get("spacings", "1"), positive=True)
    _numbers(fields.get("space directions", "1").replace("none", "").translate(str.maketrans("(),", "   ")))
    _numbers(fields.get("space origin", "0").translate(str.maketrans("(),", "   ")))
    return _Promise(
        shape=shape,
        itemsize=_NRRD_BYTES[fields["type"].lower()],
        packed=encoding in ("gzip", "gz"),
        detached=detached,
        offset=end,
        placed="space" in fields,
    )


def _meta(head: bytes) -> _Promise:
    """Parse a MetaImage header; ValueError or KeyError when it is damaged or outside what is read here."""
    fields: dict[str, str] = {}
    offset = 0
    while "ElementDataFile" not in fields:
        end = head.index(b"\n", offset) + 1
        key, equals, value = head[offset:end].decode("latin-1").partition("=")
        if not equals:
            raise ValueError("a line without =")
        fields[key.strip()] = value.strip()
        offset = end
    shape = tuple(int(side) for side in fields["DimSize"].split())
    if len(shape) != int(fields["NDims"]):
        raise ValueError("DimSize and NDims disagree")
    channels = int(fields.get("ElementNumberOfChannels", "1"))
    if not 1 <= channels <= 1024 or int(fields.get("HeaderSize", "0")) < -1:
        raise ValueError("impossible number")
    for key in ("ElementSpacing", "ElementSize"):
        if key in fields and len(_numbers(fields[key], positive=True)) != len(shape):
            raise ValueError("wrong count of numbers")
    for key, count in (
        ("TransformMatrix", len(shape) ** 2), ("Rotation", len(shape) ** 2), ("Orientation", len(shape) ** 2),
        ("Offset", len(shape)), ("Position", len(shape)), ("Origin", len(shape)),
    ):  # fmt: skip
        if key in fields and len(_numbers(fields[key])) != count:
            raise ValueError("wrong count of numbers")
    local = fields["ElementDataFile"].upper() == "LOCAL"
    return _Promise(
        shape=shape,
        itemsize=_META_BYTES[fields["ElementType"]] * channels,
        packed=fields.get("CompressedData", "False").lower() == "true",
        detached=None if local else fields["ElementDataFile"],
        offset=offset,
        placed=True,
    )


def _numbers(text: str, *, positive: bool = False) -> list[float]:
    """Finite numbers in a header field."""
    numbers = [float(word) for word in text.split()]
    if not np.isfinite(numbers).all() or (positive and min(numbers, default=1.0) <= 0):
        raise ValueError("a number that cannot be")
    return numbers
