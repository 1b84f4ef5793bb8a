"""From what a person hands in to a scan: uploads and folders on the server, refused in words that say what to do."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medfm.errors import ScanError

if TYPE_CHECKING:
    from medfm.scan import Scan

__all__ = ["Intake", "sources"]


@dataclass(frozen=True)
class Intake:
    """Reads what may be read.

    roots: folders of this machine from which scans may be opened by path; none, and no path is opened. limit: bytes of
    one upload, all files together.
    """

    roots: tuple[Path, ...] = ()
    limit: int = 4 * 2**30

    def allowed(self, path: str) -> Path:
        """The real path, if it lies in one of the roots once links and `..` are followed; a relative one begins at a
        root. Raises ScanError."""
        if not self.roots:
            raise ScanError("No folder of the server is open to this page. Start it with --folder PATH, or upload.")
        said = Path(path.strip())
        for place in [said] if said.is_absolute() else [root / said for root in self.roots]:
            try:
                real = place.resolve(strict=True)
            except (OSError, ValueError, RuntimeError):
                continue
            if any(real == root or root in real.parents for root in map(Path.resolve, self.roots)):
                return real
        # missing and forbidden read the same: the answer must not tell which folders exist
        names = ", ".join(str(root) for root in self.roots)
        raise ScanError(f"There is no such file or folder below what may be opened here: {names}.")

    def read_path(self, path: str, *, series: int | None = None) -> Scan:
        """Read a file or folder of the server. Raises ScanError, SeriesChoice."""
        from medfm.scan import Scan

        return Scan.read(self.allowed(path), series=series)

    def read_files(self, files: Sequence[str], *, series: int | None = None) -> Scan:
        """Read an upload: one file as it is; several (slices of a series, a header and its data) as one folder.

        Raises ScanError, SeriesChoice; neither repeats where the upload was put.
        """
        size = sum(Path(file).stat().st_size for file in files)
        if size > self.limit:
            raise ScanError(
                f"The upload has {size / 2**30:.1f} GiB; up to {self.limit / 2**30:.1f} GiB are taken. Send one series."
            )
        from medfm.scan import Scan

        try:
            if len(files) == 1:
                return Scan.read(files[0], series=series)
            # beside the upload, so that it is on the same disk and goes when the upload goes
            with tempfile.TemporaryDirectory(dir=Path(files[0]).parents[1]) as folder:
                for number, file in enumerate(files):
                    _place(Path(file), Path(folder), number)
                return Scan.read(folder, series=series)
        except ScanError as error:
            hidden = {str(Path(file).parent) + "/" for file in files} | {str(Path(files[0]).parents[1]) + "/"}
            text = str(error)
            for place in sorted(hidden, key=len, reverse=True):
                text = text.replace(place, "")
            error.args = (text,)
            raise


def sources(files: Sequence[str | Path], folder: Path, *, uid: str | None = None) -> list[Path]:
    """The files that a scan was read from, for exports that refer to them; zips are unpacked into `folder`.

    files: of an upload that `Intake` has read, or a folder. uid: only the files of this DICOM series.
    """
    import zipfile

    from medfm.export.dicom_source import series_files

    found: list[Path] = []
    for file in map(Path, files):
        if file.is_dir():
            found += sorted(one for one in file.rglob("*") if one.is_file())
        elif zipfile.is_zipfile(file):
            folder.mkdir(exist_ok=True)
            with zipfile.ZipFile(file) as archive:  # the reader has refused bombs; names of members are not used
                for number, member in enumerate(one for one in archive.infolist() if not one.is_dir()):
                    target = folder / f"{number}.dcm"
                    target.write_bytes(archive.read(member))
                    found.append(target)
        else:
            found.append(file)
    return series_files(found, uid) if uid else found


def _place(file: Path, folder: Path, number: int) -> None:
    """Link (or copy) a file under its own name; slices from several folders may share one."""
    target = folder / file.name
    if target.exists():
        target = target.with_name(f"{number}-{target.name}")
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)
