"""Raw data of scanners: k-space of fastMRI and ISMRMRD files and arrays, sinograms; with where they lie in mm."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from medfm.errors import ScanError
from medfm.scan.limits import check_size

if TYPE_CHECKING:
    from medfm.scan.scan import Scan

__all__ = ["RawData", "Reconstructed"]

_NOISE = 1 << 18  # ISMRMRD's flag 19: a measurement of noise, no picture in it


@dataclass(frozen=True)
class RawData:
    """What a scanner measured.

    kind "kspace": data (N coils, D, H, W) complex64, centred, 0 where nothing was sampled. kind "sinogram": data
    (D, cells, views) float32 line integrals (no unit), with `angles` in degrees, `pixel` mm of the picture's pixels
    (and of a parallel beam's cells), `size` its side, `fan` (source and detector distance, mm) for a fan beam.
    affine: index (w, h, d) of the picture to RAS mm; None where the file does not say. spacing: mm along W, H, D.
    """

    kind: Literal["kspace", "sinogram"]
    data: NDArray[Any]
    affine: NDArray[np.float64] | None = None
    spacing: tuple[float, float, float] | None = None
    angles: tuple[float, ...] = ()
    pixel: float = 1.0
    size: int = 0
    fan: tuple[float, float] | None = None
    source: str = "array"
    notes: tuple[str, ...] = ()

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(D, H, W): where k-space was sampled by any coil."""
        found: NDArray[np.bool_] = (self.data != 0).any(0)
        return found

    @classmethod
    def read(
        cls, path: str | Path, *, sinogram: bool = False, spacing: tuple[float, float, float] | None = None,
        angles: tuple[float, ...] = (), pixel: float = 1.0,
    ) -> RawData:  # fmt: skip
        """Read an HDF5 file (fastMRI or ISMRMRD), Siemens' twix (.dat), an NPY or an NPZ.

        NPY: complex (H, W), (N, H, W) or (N, D, H, W) k-space, or, with `sinogram`, real (cells, views) or
        (D, cells, views). NPZ: `sinogram` with `angles`, `pixel`, `size`, `fan`, or `kspace` with `spacing` or
        `affine`. spacing, angles, pixel: what the file does not say. Raises ScanError.
        """
        file = Path(path)
        if not file.is_file():
            raise ScanError(f"{path}: there is no such file; raw data are one HDF5, twix (.dat), NPY or NPZ file")
        head = file.open("rb").read(8)
        if head.startswith(b"\x89HDF"):
            return _hdf5(file)
        if head.startswith(b"PK"):
            return _npz(file)
        if file.suffix.lower() == ".dat":
            return _twix(file)
        if not head.startswith(b"\x93NUMPY"):
            raise ScanError(
                f"{path}: no raw data known here. Expected fastMRI or ISMRMRD HDF5, twix (.dat), NPY or NPZ"
            )
        array = _load(file)
        if sinogram:
            return _sinogram(array, angles=angles, pixel=pixel, source=f"NPY {file.name}")
        return _kspace(array, spacing=spacing, source="NPY k-space", shown=str(path))


@dataclass(frozen=True)
class Reconstructed:
    """A picture made of raw data or of a noisy picture, and how far it can be believed.

    scan: the picture. start: the direct one (zero-filled, filtered back-projection, as it came). uncertainty: standard
    deviation in the picture's unit, or None. unexplained: what of the data the picture leaves over, as a picture.
    residual, start_residual: |A x - y| / |y| of both; None where there are no data. filled: share of the picture's
    energy that was not measured; None for CT. warnings: what to look at, in plain words.
    """

    scan: Scan
    start: Scan
    method: str
    uncertainty: Scan | None = None
    unexplained: Scan | None = None
    residual: float | None = None
    start_residual: float | None = None
    filled: float | None = None
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        keys = ("method", "residual", "start_residual", "filled", "warnings")
        return {key: getattr(self, key) for key in keys}


def _load(file: Path) -> NDArray[Any]:
    try:
        mapped = np.load(file, mmap_mode="r", allow_pickle=False)
        check_size(mapped.shape, mapped.dtype.itemsize, file.name)
        return np.array(mapped)
    except (ValueError, OSError, EOFError) as error:
        raise ScanError(f"{file.name}: the array is truncated, damaged or of objects ({error})") from None


def _kspace(
    array: NDArray[Any], *, source: str, shown: str, spacing: tuple[float, float, float] | None = None,
    affine: NDArray[np.float64] | None = None, notes: tuple[str, ...] = (),
) -> RawData:  # fmt: skip
    if array.dtype.kind != "c":
        raise ScanError(
            f"{shown}: {array.dtype} numbers; k-space is complex. Sinograms: --sinogram; pictures: --denoise"
        )
    if array.ndim not in (2, 3, 4):
        raise ScanError(f"{shown}: shape {array.shape}; expected (H, W), (coils, H, W) or (coils, D, H, W)")
    data = {2: lambda a: a[None, None], 3: lambda a: a[:, None], 4: lambda a: a}[array.ndim](array)
    if not np.isfinite(data).all() or not data.any():
        raise ScanError(f"{shown}: the k-space is empty or not finite")
    return RawData("kspace", data.astype(np.complex64), affine, spacing, source=source, notes=notes)


def _sinogram(
    array: NDArray[Any], *, angles: tuple[float, ...], pixel: float, source: str, size: int = 0,
    fan: tuple[float, float] | None = None,
) -> RawData:  # fmt: skip
    if array.ndim not in (2, 3) or array.dtype.kind not in "fiu":
        raise ScanError(
            f"a sinogram of {array.dtype}, {array.shape}; expected real (cells, views) or (D, cells, views)"
        )
    data = (array[None] if array.ndim == 2 else array).astype(np.float32)
    views, span = data.shape[2], 360.0 if fan else 180.0
    shown = angles or tuple(span * n / views for n in range(views))
    if len(shown) != views or not np.isfinite(data).all():
        raise ScanError(f"{len(shown)} angles for {views} views, or values that are not finite")
    return RawData("sinogram", data, None, (pixel, pixel, pixel), shown, pixel, size, fan, source)


def _npz(file: Path) -> RawData:
    try:
        with np.load(file, allow_pickle=False) as archive:
            parts = {name: archive[name] for name in archive.files}
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise ScanError(f"{file.name}: the NPZ is damaged ({error})") from None
    if "sinogram" in parts:
        fan = tuple(float(v) for v in parts["fan"]) if "fan" in parts else None
        return _sinogram(
            parts["sinogram"], angles=tuple(parts.get("angles", np.array([])).tolist()),
            pixel=float(parts.get("pixel", 1.0)), size=int(parts.get("size", 0)), source=f"NPZ {file.name}",
            fan=None if fan is None else (fan[0], fan[1]),
        )  # fmt: skip
    if "kspace" in parts:
        spacing = parts.get("spacing")
        three = None if spacing is None else (float(spacing[0]), float(spacing[1]), float(spacing[2]))
        return _kspace(
            parts["kspace"], spacing=three, affine=parts.get("affine"), source="NPZ k-space", shown=file.name
        )
    raise ScanError(f"{file.name}: arrays {sorted(parts)}; expected one called kspace or sinogram")


def _hdf5(file: Path) -> RawData:
    try:
        import h5py
    except ImportError as error:
        raise ScanError(f"{file.name}: reading HDF5 needs h5py: pip install 'medfm[recon]'") from error
    try:
        with h5py.File(file, "r") as archive:
            if "kspace" in archive:
                return _fastmri(archive, file.name)
            group = next((name for name, part in archive.items() if hasattr(part, "keys") and "data" in part), None)
    except OSError as error:
        raise ScanError(f"{file.name}: the HDF5 file is truncated or damaged ({error})") from None
    if group is None:
        raise ScanError(f"{file.name}: an HDF5 file with neither fastMRI's `kspace` nor ISMRMRD's `dataset/data`")
    return _ismrmrd(file, group)


def _twix(file: Path) -> RawData:
    from medfm.scan.twix import read_twix

    read = read_twix(file)
    data, spacing = _trimmed(read.data, read.encoded, read.recon, readout=3)
    return _kspace(data, spacing=spacing, source="Siemens twix", shown=file.name, notes=read.notes)


def _fastmri(archive: Any, shown: str) -> RawData:
    """(slices, coils, H, W), or (slices, H, W) of one coil; field of view and matrix in an ISMRMRD header."""
    check_size(archive["kspace"].shape, 8, shown)
    k = np.asarray(archive["kspace"])
    k = k[:, None] if k.ndim == 3 else k
    notes: list[str] = []
    if "mask" in archive:
        mask = np.asarray(archive["mask"]).astype(bool).ravel()
        if mask.size == k.shape[-1]:
            k = k * mask
    data, spacing = np.moveaxis(k, 0, 1), None
    if "ismrmrd_header" in archive:
        encoded, recon = _header(archive["ismrmrd_header"][()], shown)
        data, spacing = _trimmed(data, encoded, recon, readout=2)
        notes.append("the file says how large voxels are, not where they lie in the patient")
    return _kspace(data, spacing=spacing, source="fastMRI HDF5", shown=shown, notes=tuple(notes))


Space = tuple[NDArray[np.int64], NDArray[np.float64]]  # matrix and field of view in mm, along W (readout), H, D


def _header(xml: bytes | str, shown: str) -> tuple[Space, Space]:
    from xml.etree import ElementTree

    text = xml if isinstance(xml, str) else xml.decode()
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ScanError(f"{shown}: the header declares entities; an ISMRMRD header has none")
    try:
        root = ElementTree.fromstring(text)
        name = root.tag.partition("}")[0] + "}" if root.tag.startswith("{") else ""
        spaces = []
        for space in ("encodedSpace", "reconSpace"):
            node = root.find(f"{name}encoding/{name}{space}")
            assert node is not None
            values = [
                [float(node.findtext(f"{name}{part}/{name}{axis}") or "nan") for axis in "xyz"]
                for part in ("matrixSize", "fieldOfView_mm")
            ]
            spaces.append((np.array(values[0]).astype(np.int64), np.array(values[1])))
    except (ElementTree.ParseError, AssertionError, ValueError) as error:
        raise ScanError(f"{shown}: the ISMRMRD header has no encoded and reconstructed space ({error})") from None
    return spaces[0], spaces[1]


def _trimmed(
    data: NDArray[Any], encoded: Space, recon: Space, *, readout: int
) -> tuple[NDArray[Any], tuple[float, float, float]]:
    """Without the readout's oversampling: its pictures are cut to the reconstructed field of view; no line is lost."""
    mm = encoded[1] / np.maximum(encoded[0], 1)
    keep = min(data.shape[readout], round(recon[1][0] / mm[0]))
    if keep < data.shape[readout]:
        axes = (readout,)
        x = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(data, axes), axis=readout, norm="ortho"), axes)
        first = (data.shape[readout] - keep) // 2
        x = np.take(x, np.arange(first, first + keep), axis=readout)
        data = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(x, axes), axis=readout, norm="ortho"), axes)
    depth = float(recon[1][2] / max(int(recon[0][2]), 1))
    inplane = (float(mm[0]), float(mm[1])) if readout == 3 else (float(mm[1]), float(mm[0]))
    return data, (inplane[0], inplane[1], depth)


def _ismrmrd(file: Path, group: str) -> RawData:
    """Cartesian acquisitions put where their encoding steps say; averages are averaged, noise scans left out."""
    try:
        import ismrmrd
    except ImportError as error:
        raise ScanError(f"{file.name}: an ISMRMRD file needs ismrmrd: pip install 'medfm[recon]'") from error
    with ismrmrd.File(str(file), mode="r") as archive:
        part = archive[group]
        if not part.has_acquisitions():
            raise ScanError(f"{file.name}: no acquisitions in {group!r}; pictures are read with --denoise after export")
        xml = part.header.toXML() if hasattr(part.header, "toXML") else ismrmrd.xsd.ToXML(part.header)
        encoded, recon = _header(xml, file.name)
        if (kind := str(getattr(part.header.encoding[0].trajectory, "value", "cartesian"))) != "cartesian":
            raise ScanError(f"{file.name}: a {kind} trajectory; Cartesian files are read")
        limits = part.header.encoding[0].encodingLimits
        lines = [a for a in part.acquisitions if not a.flags & _NOISE]
    notes = []
    for what in ("contrast", "phase", "repetition", "set"):
        if len(found := sorted({int(getattr(a.idx, what)) for a in lines})) > 1:
            notes.append(f"{len(found)} {what}s are in the file; the first is read")
            lines = [a for a in lines if getattr(a.idx, what) == found[0]]
    width, height = max(a.data.shape[1] for a in lines), int(encoded[0][1])
    slices = sorted({int(a.idx.slice) for a in lines})
    parts = int(encoded[0][2])
    if len(slices) > 1 and parts > 1:
        raise ScanError(f"{file.name}: {len(slices)} slabs of 3D encoding; files of one slab or of 2D slices are read")
    depth = max(len(slices), parts)
    check_size((len(lines[0].data), depth, height, width), 8, file.name)
    data = np.zeros((len(lines[0].data), depth, height, width), dtype=np.complex64)
    count = np.zeros((depth, height, width), dtype=np.int64)
    up = _offset(limits, "kspace_encoding_step_1", height)
    deep = _offset(limits, "kspace_encoding_step_2", parts) if parts > 1 else 0
    for a in lines:
        d = slices.index(int(a.idx.slice)) if parts == 1 else int(a.idx.kspace_encode_step_2) + deep
        h = int(a.idx.kspace_encode_step_1) + up
        first = width // 2 - int(a.center_sample)
        if not (0 <= h < height and 0 <= d < depth and first >= 0 and first + a.data.shape[1] <= width):
            raise ScanError(
                f"{file.name}: line {h} of {height}, slice {d} of {depth}: the header does not fit the data"
            )
        data[:, d, h, first : first + a.data.shape[1]] += a.data
        count[d, h, first : first + a.data.shape[1]] += 1
    data /= np.maximum(count, 1)
    data, spacing = _trimmed(data, encoded, recon, readout=3)
    affine = _placed(lines, slices, data.shape, spacing, volume=parts > 1)
    if affine is None:
        notes.append("the file does not say where the slices lie in the patient")
    return _kspace(
        data, spacing=spacing, affine=affine, source="ISMRMRD", shown=file.name, notes=tuple(notes)
    )  # fmt: skip


def _offset(limits: Any, step: str, size: int) -> int:
    """What is added to an encoding step so that the middle of k-space lies in the middle of the matrix."""
    limit = getattr(limits, step, None)
    return 0 if limit is None else size // 2 - int(limit.center)


def _placed(
    lines: list[Any], slices: list[int], shape: tuple[int, ...], spacing: tuple[float, float, float], *, volume: bool
) -> NDArray[np.float64] | None:
    """Index (w, h, d) to RAS mm, from the slices' middles and directions in LPS."""
    first, last = (next(a for a in lines if int(a.idx.slice) == s) for s in (slices[0], slices[-1]))
    axes = [np.array(list(getattr(first, name)), dtype=np.float64) for name in ("read_dir", "phase_dir", "slice_dir")]
    if min(np.linalg.norm(a) for a in axes) < 0.5:
        return None
    middle = np.array(list(first.position), dtype=np.float64)
    if len(slices) > 1:
        step = (np.array(list(last.position), dtype=np.float64) - middle) / (len(slices) - 1)
        along = step if np.linalg.norm(step) > 1e-3 else axes[2] * spacing[2]
    else:
        along = axes[2] * spacing[2]
    _, depth, height, width = shape
    matrix = np.stack([axes[0] * spacing[0], axes[1] * spacing[1], along], 1)
    back = np.array([width // 2, height // 2, depth // 2 if volume else 0])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix, middle - matrix @ back
    flipped: NDArray[np.float64] = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    return flipped
