"""How large a scan may be: checked on what a header says, before memory is taken."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from medfm.errors import ScanError

__all__ = ["MAX_ARCHIVE_BYTES", "MAX_ARCHIVE_RATIO", "MAX_FILES", "check_room", "check_size"]

MAX_SIDE = 100_000  # voxels along one axis
MAX_BYTES = 8 * 2**30  # of one decoded scan; a 512 x 512 x 2000 CT takes 1 GiB
MAX_ARCHIVE_BYTES = 8 * 2**30  # unpacked, all members together
MAX_ARCHIVE_RATIO = 200  # unpacked to packed; deflate reaches about 1000 on zeros, real scans 2 to 20
MAX_FILES = 100_000  # in one folder or archive
_MAX_DEFLATE = 1100  # deflate cannot expand by more than about 1032


def check_size(shape: Sequence[int], itemsize: int, shown: str) -> int:
    """Raise ScanError for an empty or absurd shape; return its size in bytes."""
    text = " x ".join(str(side) for side in shape)
    if not shape or min(shape) < 1:
        raise ScanError(f"{shown}: the header says {text or 'no'} voxels; every side must be at least 1.")
    size = prod(shape) * itemsize
    if max(shape) > MAX_SIDE or size > MAX_BYTES:
        raise ScanError(
            f"{shown}: the header says {text} voxels ({size / 2**30:.1f} GiB); sides up to {MAX_SIDE} and "
            f"{MAX_BYTES // 2**30} GiB are read. The header is damaged, or the scan must be split first."
        )
    return size


def check_room(needed: int, available: int, shown: str, *, packed: bool = False) -> None:
    """Raise ScanError when a file of `available` bytes cannot hold `needed` bytes of voxels (packed: deflated)."""
    if needed > available * (_MAX_DEFLATE if packed else 1):
        raise ScanError(
            f"{shown}: truncated: the header needs {needed} bytes of voxels, the file has {available}"
            f"{' packed' if packed else ''}. Copy the file again."
        )
