"""Siemens raw data (twix, meas_*.dat) by twixtools: the lines of a Cartesian scan, put where their counters say."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm.errors import ScanError
from medfm.scan.limits import check_size

__all__ = ["Twix", "read_twix"]

_CARTESIAN = 1  # of sKSpace.ucTrajectory
_VOLUME = 4  # of sKSpace.ucDimension: partitions are encoded
_INTEGRATED = 2  # of sPat.ucRefScanMode: calibration lines belong to the picture's own k-space
_COUNTERS = {"Eco": "echoe", "Phs": "phase", "Rep": "repetition", "Set": "set"}


class Twix(NamedTuple):
    """data (N coils, D, H, W) complex64, the readout's oversampling in it; encoded: matrix and field (mm) along W, H, D
    with it; recon: without; notes: what was left out."""

    data: NDArray[np.complex64]
    encoded: tuple[NDArray[np.int64], NDArray[np.float64]]
    recon: tuple[NDArray[np.int64], NDArray[np.float64]]
    notes: tuple[str, ...]


def read_twix(file: Path) -> Twix:
    """The last measurement of the file; those before it are adjustments. Averages are averaged.

    Raises ScanError: twixtools is not installed, the file is damaged, or its lines are not Cartesian.
    """
    try:
        import twixtools
    except ImportError as error:
        raise ScanError(f"{file.name}: Siemens raw data need twixtools: pip install 'medfm[twix]'") from error
    try:
        with redirect_stdout(io.StringIO()):  # it prints what it does, and stdout is for results
            scan = twixtools.read_twix(
                str(file), include_scans=-1, parse_data=False, parse_pmu=False, parse_geometry=False, verbose=False
            )[-1]
        yaps = scan["hdr"]["MeasYaps"]
        if (kind := int(yaps["sKSpace"].get("ucTrajectory", _CARTESIAN))) != _CARTESIAN:
            raise ScanError(f"{file.name}: trajectory {kind} of the Siemens protocol; Cartesian (1) is read")
        return _placed(list(_lines(file, scan, yaps, twixtools)), yaps, file.name)
    except (KeyError, IndexError, ValueError, TypeError, AttributeError, OSError, EOFError) as error:
        raise ScanError(f"{file.name}: the Siemens raw data are truncated or damaged ({error!r})") from error


def _lines(file: Path, scan: dict[str, Any], yaps: dict[str, Any], twixtools: Any) -> Iterator[Any]:
    """Blocks of the picture's own lines. Read here, for a block of no length would hold twixtools for ever."""
    entry, size = scan.get("raidfile_hdr"), file.stat().st_size
    begin = 0 if entry is None else int(entry["off_"])
    end = size if entry is None or not entry["len_"] else min(size, begin + int(entry["len_"]))
    place = begin + len(scan["hdr_str"])
    own = int(yaps.get("sPat", {}).get("ucRefScanMode", 0)) == _INTEGRATED
    with file.open("rb") as stream:
        while place + 128 < end:
            stream.seek(place)
            block = twixtools.mdb.Mdb(stream, entry is not None)
            if block.is_flag_set("ACQEND"):
                return
            if block.dma_len < 128:
                raise ValueError(f"a block of {block.dma_len} bytes at {place}")
            place += int(block.dma_len)
            calibration = own and block.is_flag_set("PATREFSCAN") and not block.is_flag_set("PHASCOR")
            if calibration or block.is_image_scan():
                block.data  # noqa: B018, the stream closes before the lines are sorted
                yield block.convert_to_local()


def _placed(lines: list[Any], yaps: dict[str, Any], shown: str) -> Twix:
    if not lines:
        raise ScanError(f"{shown}: no line of a picture; only adjustments or noise are in the file")
    if any(line.is_flag_set("REFLECT") for line in lines):
        raise ScanError(f"{shown}: lines read back and forth (EPI) need a correction that is not here")
    notes = ["it is not read where the slices lie in the patient"]
    for counter, words in _COUNTERS.items():
        if len(found := sorted({int(getattr(line.mdh.Counter, counter)) for line in lines})) > 1:
            notes.append(f"{len(found)} {words}s are in the file; the first is read")
            lines = [line for line in lines if int(getattr(line.mdh.Counter, counter)) == found[0]]
    space, first = yaps["sKSpace"], yaps["sSliceArray"]["asSlice"][0]
    volume = int(space["ucDimension"]) == _VOLUME
    slices = sorted({int(line.cSlc) for line in lines})
    if volume and len(slices) > 1:
        raise ScanError(f"{shown}: {len(slices)} slabs of 3D encoding; files of one slab or of 2D slices are read")
    base, height = int(space["lBaseResolution"]), int(space["lPhaseEncodingLines"])
    parts = int(space["lPartitions"]) if volume else 1
    depth, width, coils = parts if volume else len(slices), 2 * base, int(lines[0].data.shape[0])
    check_size((coils, depth, height, width), 8, shown)
    data = np.zeros((coils, depth, height, width), dtype=np.complex64)
    count = np.zeros((depth, height, width), dtype=np.int64)
    for line in lines:
        h = int(line.cLin) + height // 2 - int(line.mdh.CenterLin)
        d = int(line.cPar) + parts // 2 - int(line.mdh.CenterPar) if volume else slices.index(int(line.cSlc))
        begin = width // 2 - int(line.mdh.CenterCol)
        stop = begin + line.data.shape[1]
        if not (0 <= h < height and 0 <= d < depth and begin >= 0 and stop <= width):
            raise ScanError(f"{shown}: line {h} of {height}, slice {d} of {depth}: the header does not fit the data")
        data[:, d, h, begin:stop] += line.data
        count[d, h, begin:stop] += 1
    data /= np.maximum(count, 1)
    more = 1 + float(space.get("dPhaseOversamplingForDialog", 0.0))
    field = np.array([float(first["dReadoutFOV"]), more * float(first["dPhaseFOV"]), float(first["dThickness"])])
    matrix = np.array([base, height, parts])
    twice = np.array([2, 1, 1])  # Siemens reads twice as many samples along the readout
    return Twix(data, (matrix * twice, field * twice), (matrix, field), tuple(notes))
