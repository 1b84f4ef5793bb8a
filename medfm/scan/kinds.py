"""What kind of file it is: told by its content, never by its name."""

from __future__ import annotations

import zlib
from pathlib import Path

__all__ = ["kind_of"]

_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*", b"BM")


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
