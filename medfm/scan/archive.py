"""Zip archives: unpacked into a private temporary folder after their list has been checked."""

from __future__ import annotations

import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from medfm.errors import ScanError
from medfm.scan.limits import MAX_ARCHIVE_BYTES, MAX_ARCHIVE_RATIO, MAX_FILES
from medfm.scan.raw import RawScan, Request

__all__ = ["read_zip"]

_SMALL = 64 * 2**20  # bytes: below this a high ratio (a label map, say) does no harm


def read_zip(path: Path, request: Request, read_folder: Callable[[Path], RawScan]) -> RawScan:
    """Read the scan in a zip (an NPZ when all its members are .npy); nothing of it stays on the disk.

    read_folder: reads the folder that it was unpacked into.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
            _check(members, request)
            if members and all(info.filename.endswith(".npy") for info in members):
                from medfm.scan.arrays import read_npz

                return read_npz(path, request)
            with tempfile.TemporaryDirectory(prefix="medfm-") as folder:
                notes = _unpack(archive, members, Path(folder))
                raw = read_folder(Path(folder))
                raw.notes[:0] = notes
                return raw
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise ScanError(f"{request.shown}: the zip is truncated or damaged ({type(error).__name__}).") from None
    except (NotImplementedError, RuntimeError):
        raise ScanError(f"{request.shown}: the zip is packed in a way that cannot be read. Pack it again.") from None


def _check(members: list[zipfile.ZipInfo], request: Request) -> None:
    """Refuse encryption, names that leave the folder, and bombs, from the list alone."""
    if any(info.flag_bits & 0x1 for info in members):
        raise ScanError(f"{request.shown}: the zip is encrypted. Unpack it with its password first.")
    if len(members) > MAX_FILES:
        raise ScanError(f"{request.shown}: {len(members)} files in the zip; up to {MAX_FILES} are read.")
    for info in members:
        parts = info.filename.replace("\\", "/").split("/")
        if ".." in parts or parts[0] == "" or parts[0].endswith(":") or "\x00" in info.filename:
            raise ScanError(f"{request.shown}: a name in the zip points outside of it; such archives are refused.")
    total, packed = sum(info.file_size for info in members), sum(info.compress_size for info in members)
    worst = max((info.file_size / max(info.compress_size, 1) for info in members if info.file_size > _SMALL), default=0)
    if (
        total > MAX_ARCHIVE_BYTES
        or worst > MAX_ARCHIVE_RATIO
        or (total > _SMALL and total / max(packed, 1) > MAX_ARCHIVE_RATIO)
    ):
        raise ScanError(
            f"{request.shown}: the zip would unpack {packed} bytes into {total} (a zip bomb?); up to "
            f"{MAX_ARCHIVE_BYTES // 2**30} GiB and {MAX_ARCHIVE_RATIO} times its size are read. Unpack it yourself."
        )


def _unpack(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], folder: Path) -> list[str]:
    """Write the regular files; return notes on what was left out."""
    links = 0
    for number, info in enumerate(members):
        if stat.S_ISLNK(info.external_attr >> 16):
            links += 1
            continue
        name = PurePosixPath(info.filename.replace("\\", "/"))
        if "__MACOSX" in name.parts:
            continue
        target = folder / name
        if target.exists():  # a second member of that name
            target = folder / f"again{number}" / name.name
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(info) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
    return [f"{links} links in the zip were left out."] if links else []
