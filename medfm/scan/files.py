"""From a path to the reader of its kind."""

from __future__ import annotations

from pathlib import Path

from medfm.errors import ScanError
from medfm.scan.archive import read_zip
from medfm.scan.folders import directory_files, read_folder
from medfm.scan.kinds import kind_of
from medfm.scan.raw import RawScan, Request

__all__ = ["read_file", "read_raw"]


def read_raw(path: Path, request: Request) -> RawScan:
    """Read a file, a folder or an archive."""
    try:
        if path.is_dir():
            return read_folder(path, request, read_file)
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
        return read_zip(path, request, lambda folder: read_folder(folder, request, read_file))
    raise ScanError(
        f"{request.shown}: not a kind of file that is read here. Expected DICOM, NIfTI, NRRD, MHA, PNG, JPEG, TIFF, "
        "BMP, NPY, NPZ, or a zip or folder of them."
    )
