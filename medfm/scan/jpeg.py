"""Compressed DICOM pixels: JPEG, JPEG lossless, JPEG-LS and JPEG 2000 through imagecodecs, as a plugin of pydicom."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import pydicom.pixels.decoders as decoders
from pydicom.uid import JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import DecodeRunner

__all__ = ["DECODER_DEPENDENCIES", "PLUGIN", "decode_frame", "is_available", "register"]

PLUGIN = "medfm"  # its name in pydicom's tables
_DECODERS = (
    decoders.JPEGBaseline8BitDecoder,
    decoders.JPEGExtended12BitDecoder,
    decoders.JPEGLosslessDecoder,
    decoders.JPEGLosslessSV1Decoder,
    decoders.JPEGLSLosslessDecoder,
    decoders.JPEGLSNearLosslessDecoder,
    decoders.JPEG2000LosslessDecoder,
    decoders.JPEG2000Decoder,
    decoders.HTJ2KLosslessDecoder,
    decoders.HTJ2KLosslessRPCLDecoder,
    decoders.HTJ2KDecoder,
)
DECODER_DEPENDENCIES = {decoder.UID: ("imagecodecs>=2024.12.30",) for decoder in _DECODERS}  # pydicom asks for the name


def is_available(uid: str) -> bool:
    """Whether pixels of this transfer syntax can be decoded; pydicom asks."""
    return uid in DECODER_DEPENDENCIES and find_spec("imagecodecs") is not None


def register() -> None:
    """Make pydicom know this plugin; a second call does nothing. Not to be called by two threads at once."""
    for decoder in _DECODERS:
        if PLUGIN not in decoder.available_plugins:
            decoder.add_plugin(PLUGIN, (__name__, "decode_frame"))


def decode_frame(src: bytes, runner: DecodeRunner) -> bytes:
    """Decode one frame to little-endian bytes, and tell `runner` where their layout is not the header's.

    Colours stay as they were stored (pydicom turns YBR to RGB), but for JPEG 2000, whose own transform is undone.
    Raises ValueError, or an error of imagecodecs, which pydicom turns into RuntimeError.
    """
    import imagecodecs

    jpeg2000 = runner.transfer_syntax in JPEG2000TransferSyntaxes
    # an end before the last start: libjpeg would fill the rest with grey, charls take seconds to see it
    if not jpeg2000 and src.rfind(b"\xff\xd9") < src.rfind(b"\xff\xda"):
        raise ValueError("the picture has no end: it is truncated")
    if jpeg2000:
        array = imagecodecs.jpeg2k_decode(src)
        if runner.photometric_interpretation in ("YBR_ICT", "YBR_RCT"):
            runner.set_option("photometric_interpretation", "RGB")
    elif runner.transfer_syntax in JPEGLSTransferSyntaxes:
        array = imagecodecs.jpegls_decode(src)
    else:
        stored = "RGB" if runner.samples_per_pixel == 3 else None  # both the same: no conversion
        array = imagecodecs.jpeg8_decode(src, colorspace=stored, outcolorspace=stored)
    shape = (runner.rows, runner.columns, runner.samples_per_pixel)
    if array.shape != (shape if shape[2] > 1 else shape[:2]):
        raise ValueError(f"the picture has the shape {array.shape}, the header says {shape}")
    size = max(array.itemsize, runner.bits_allocated // 8)
    runner.set_option("bits_allocated", 8 * size)
    runner.set_option("planar_configuration", 0)  # colours of a pixel lie together
    return array.astype(f"<{array.dtype.kind}{size}", copy=False).tobytes()
