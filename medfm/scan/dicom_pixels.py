"""DICOM pixels: decoding, colour, MONOCHROME1 and the rescale, each done exactly once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfm.errors import ScanError
from medfm.scan import jpeg
from medfm.scan.dicom_header import Slice
from medfm.scan.raw import Request
from medfm.scan.values import lean, rescale

__all__ = ["decode", "fingerprint"]

_PIXEL_TAGS = [
    "SpecificCharacterSet", "SOPClassUID", "Modality", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel",
    "PhotometricInterpretation", "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "PixelData", "FloatPixelData", "DoubleFloatPixelData", "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths", "ModalityLUTSequence", "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableDescriptor",
    "AlphaPaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData", "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData", "SegmentedBluePaletteColorLookupTableData",
    "SmallestImagePixelValue", "LargestImagePixelValue",
]  # fmt: skip


def decode(slices: Sequence[Slice], request: Request, notes: list[str], *, quantitative: bool) -> NDArray:
    """Decode slices, in their order, into (D, H, W) or (D, H, W, 3).

    quantitative: the values are a physical quantity (HU): MONOCHROME1, a wish for display, must not invert them.
    Files are decoded by a few threads; whole stored ranges that fit keep 16 bits.
    """
    jpeg.register()  # here, because pydicom's tables must not be changed by several threads
    runs = [list(run) for _, run in groupby(slices, key=lambda item: item.path)]
    said: set[str] = set()

    def work(run: list[Slice]) -> list[NDArray]:
        return _decode_file(run, request, said, quantitative)

    out: NDArray | None = None
    for position, picture in enumerate(_in_order(work, runs)):
        if out is None:
            out = np.empty((len(slices), *picture.shape), dtype=picture.dtype)
        if picture.shape != out.shape[1:]:
            raise ScanError(f"{request.shown}: slices of different sizes are in one series; they cannot be stacked.")
        wide = np.promote_types(out.dtype, picture.dtype)
        if wide != out.dtype:
            out = out.astype(np.float32 if wide.kind == "f" else wide)
        out[position] = picture
    assert out is not None
    notes.extend(sorted(said))
    return out


def _in_order(work: Callable[[list[Slice]], list[NDArray]], runs: list[list[Slice]]) -> Iterator[NDArray]:
    """Results of `work` over `runs` in order, by threads when there are several."""
    if len(runs) == 1:
        yield from work(runs[0])
        return
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for pictures in pool.map(work, runs):
            yield from pictures


def _decode_file(run: list[Slice], request: Request, said: set[str], quantitative: bool) -> list[NDArray]:
    """All wanted frames of one file."""
    import pydicom
    from pydicom.pixels import pixel_array
    from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

    try:
        ds = pydicom.dcmread(run[0].path, force=True, specific_tags=_PIXEL_TAGS)
        syntax = ds.file_meta.get("TransferSyntaxUID")
        if syntax is None:
            implicit, little = ds.original_encoding
            explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
            syntax = ImplicitVRLittleEndian if implicit else explicit
        syntax = ds.file_meta.TransferSyntaxUID = UID(str(syntax))
    except Exception as error:
        raise ScanError(f"{request.shown}: the DICOM file is truncated or damaged ({type(error).__name__}).") from None
    if not any(name in ds for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise ScanError(f"{request.shown}: a DICOM image without pixel data. Export it again with its pixels.")
    pictures = []
    for item in run:
        try:
            _check_stream(ds, item, request)
            # one named decoder: others that are installed may crash on damaged pixels, and Python with them
            plugin = "pydicom" if syntax == RLELossless else jpeg.PLUGIN if syntax.is_encapsulated else ""
            pixels = pixel_array(ds, index=item.index, decoding_plugin=plugin)
            pictures.append(_values(ds, pixels, item, said, quantitative))
        except ScanError:
            raise
        except Exception as error:  # every decoder has its own errors
            raise ScanError(
                f"{request.shown}: the pixels cannot be decoded ({type(error).__name__}, transfer syntax "
                f"{syntax.name}): truncated, damaged, or of a kind that is not supported."
            ) from None
    return pictures


def _check_stream(ds: Any, item: Slice, request: Request) -> None:
    """Refuse a compressed picture whose own size is not the header's, before a decoder takes memory for it."""
    from pydicom.encaps import get_frame

    if not ds.file_meta.TransferSyntaxUID.is_encapsulated:
        return
    size = _stream_size(get_frame(ds.PixelData, item.index, number_of_frames=item.frames))
    expected = (item.rows, item.columns, int(ds.get("SamplesPerPixel", 1)))
    if size is not None and size != expected:
        found, wanted = (f"{columns} x {rows} pixels of {n} channels" for rows, columns, n in (size, expected))
        raise ScanError(
            f"{request.shown}: the compressed picture has {found}, its header says {wanted}. Export the file again."
        )


def _stream_size(stream: bytes) -> tuple[int, int, int] | None:
    """(rows, columns, channels) that a JPEG 2000 or JPEG codestream gives; None when there is no such marker."""
    at = stream.find(b"\xff\x4f\xff\x51", 0, 4096)  # JPEG 2000: SOC, then SIZ
    if at >= 0 and len(stream) >= at + 42:
        right, low, left, top = (int.from_bytes(stream[at + n : at + n + 4]) for n in (8, 12, 16, 20))
        return low - top, right - left, int.from_bytes(stream[at + 40 : at + 42])
    at = 2
    while stream[:2] == b"\xff\xd8" and at + 10 <= len(stream) and stream[at] == 0xFF:
        marker, length = stream[at + 1], int.from_bytes(stream[at + 2 : at + 4])
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):  # start of frame
            return int.from_bytes(stream[at + 5 : at + 7]), int.from_bytes(stream[at + 7 : at + 9]), stream[at + 9]
        at += 1 if marker == 0xFF else 2 + length
    return None


def _values(ds: Any, pixels: NDArray, item: Slice, said: set[str], quantitative: bool) -> NDArray:
    """Stored pixels to values: palette, colour depth, MONOCHROME1, modality table or rescale."""
    from pydicom.pixels import apply_color_lut, apply_modality_lut

    kind = str(ds.get("PhotometricInterpretation", ""))
    if kind == "PALETTE COLOR":
        return _palette(np.asarray(apply_color_lut(pixels, ds)))
    if pixels.ndim == 3:
        return _eight_bits(pixels, said, int(ds.get("BitsStored", 8)))
    if kind == "MONOCHROME1":
        if quantitative:
            said.add("The header asks for inverted display (MONOCHROME1); the values are HU and were kept.")
        else:
            pixels = _invert(pixels, ds)
    if ds.get("ModalityLUTSequence"):
        return lean(np.asarray(apply_modality_lut(pixels, ds)))
    return lean(rescale(pixels, item.slope, item.intercept))


def _invert(pixels: NDArray, ds: Any) -> NDArray:
    """Mirror stored values within the range of their bits, the same for every slice."""
    if pixels.dtype.kind == "f":
        return -pixels
    bits = int(ds.get("BitsStored", 8 * pixels.dtype.itemsize))
    ends = -1 if pixels.dtype.kind == "i" else 2**bits - 1  # lowest plus highest stored value
    return ends - pixels.astype(np.int64)


def _palette(colours: NDArray) -> NDArray:
    """Palette colours to uint8. Some writers put 8-bit colours into 16-bit tables without scaling them."""
    if colours.dtype == np.uint8 or colours.max(initial=0) <= 255:
        return colours.astype(np.uint8)
    return (colours >> 8).astype(np.uint8)


def _eight_bits(pixels: NDArray, said: set[str], bits: int) -> NDArray:
    """RGB of more than 8 bits to uint8."""
    if pixels.dtype == np.uint8:
        return pixels
    said.add("The colours had more than 8 bits; 8 were kept.")
    return (pixels >> max(bits - 8, 0)).clip(0, 255).astype(np.uint8)


def fingerprint(item: Slice) -> object:
    """Tells a copy of a slice from another picture at the same position: a digest of the stored pixels."""
    import pydicom

    if item.frames > 1:
        return item.index
    try:
        ds = pydicom.dcmread(item.path, force=True, specific_tags=["PixelData"])
        return hashlib.sha256(ds.PixelData).hexdigest()
    except Exception:
        return item.path
