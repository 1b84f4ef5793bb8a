"""From a path to the reader of its kind: the kind is told by a file's content, never by its name."""

from __future__ import annotations

import zlib
from pathlib import Path

from medfm.errors import ScanError
from medfm.scan.raw import RawScan, Request

__all__ = ["kind_of", "read_file", "read_raw"]

_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*", b"BM")


def read_raw(path: Path, request: Request) -> RawScan:
    """Read a file, a folder or an archive."""
    try:
        if path.is_dir():
            from medfm.scan.folders import read_folder

            return read_folder(path, request)
        if not path.exists():
            raise ScanError(f"{request.shown}: there is no such file or folder.")
        if not path.is_file():
            raise ScanError(f"{request.shown}: not a regular file or folder.")
        return read_file(path, request)
    except OSError as error:
        raise ScanError(f"{request.shown}: cannot be opened ({error.strerror or type(error).__name__}).") from None
    except MemoryError:
        raise ScanError(f"{request.shown}: there is not enough memory to read it.") from None


def read_file(path: Path, request: Request) -> RawScan:
    """Read one file by its kind."""
    kind = kind_of(path)
    if kind == "empty":
        raise ScanError(f"{request.shown}: the file is empty (0 bytes). Copy or export it again.")
    if kind == "dicom":
        from medfm.scan.dicom_series import read_dicom
        from medfm.scan.folders import directory_files

        return read_dicom(directory_files(path, request) or [path], request, [])
    if kind == "picture":
        from medfm.scan.pictures import read_picture

        return read_picture(path, request)
    if kind == "nifti":
        from medfm.scan.volumes import read_nifti

        return read_nifti(path, request)
    if kind == "npy":
        from medfm.scan.arrays import read_npy

        return read_npy(path, request)
    if kind == "itk":
        from medfm.scan.itk import read_itk

        return read_itk(path, request)
    if kind == "zip":
        from medfm.scan.archive import read_zip

        return read_zip(path, request)
    raise ScanError(
        f"{request.shown}: not a kind of file that is read here. Expected DICOM, NIfTI, NRRD, MHA, PNG, JPEG, TIFF, "
        "BMP, NPY, NPZ, or a zip or folder of them."
    )


def kind_of(path: Path) -> str:
    """'dicom', 'picture', 'nifti', 'npy', 'itk', 'zip', 'empty' or 'unknown'."""
    with path.open("rb") as file:
        head = file.read(1024)
    if not head:
        return "empty"
    if head[128:132] == b"DICM":
        return "dicom"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if head.startswith(_PICTURES):
        return "picture"
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head.startswith(b"NRRD000") or (b"NDims" in head and b"=" in head and head[:1].isalpha()):
        return "itk"
    if head.startswith(b"\x1f\x8b"):
        return "nifti" if _is_nifti(_unpacked_head(path)) else "unknown"
    if _is_nifti(head):
        return "nifti"
    return "dicom" if _is_bare_dicom(head) else "unknown"


def _unpacked_head(path: Path) -> bytes:
    """What a gzip file begins with, also when it is cut off later."""
    try:
        with path.open("rb") as file:
            return zlib.decompressobj(wbits=31).decompress(file.read(65_536), 1024)  # 31: gzip
    except zlib.error:
        return b""


def _is_nifti(head: bytes) -> bool:
    first = head[344:348] in (b"n+1\x00", b"ni1\x00") and head[:4] in (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c")
    second = head[4:7] in (b"n+2", b"ni2") and head[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c")
    return first or second


def _is_bare_dicom(head: bytes) -> bool:
    """DICOM without preamble: it starts with an element of group 2 or 8 that has a short, plausible length."""
    for order in ("little", "big"):
        group, element = int.from_bytes(head[:2], order), int.from_bytes(head[2:4], order)
        if group not in (0x0002, 0x0008) or element > 0x2000 or len(head) < 12:
            continue
        if head[4:6].isalpha() and head[4:6].isupper():
            return True
        if int.from_bytes(head[4:8], order) <= 1024:
            return True
    return False
