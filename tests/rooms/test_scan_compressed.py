"""Compressed DICOM: every syntax gives back the pixels that went in, and a cut or lying stream is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import scan_builders as build
from pydicom import uid
from pydicom.encaps import encapsulate

from medfm.errors import ScanError
from medfm.scan import Scan

NOISE = np.cumsum(np.random.default_rng(0).integers(-9, 10, (64, 48)), axis=1)
COLOURS = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
BY_PLANE = bytes.fromhex(  # JPEG-LS with a scan for each colour: black beside (10, 20, 255), 12 x 10 pixels
    "ffd8fff7001108000c000a03011100021100031100ffda0008010100000000f43caf27773679e3aebaebaeffda0008010200000000f401e5793bb9"
    "b3cf1d75d75d70ffda0008010300000000f64af27773679e3aebaebae0ffd9"
)


def _lossless(syntax: str, stored: np.ndarray, bits: int) -> bytes:
    """Write `stored` (unsigned) in the given syntax."""
    if syntax in uid.JPEGLSTransferSyntaxes:
        return bytes(imagecodecs.jpegls_encode(stored))
    if syntax == uid.HTJ2KLossless:
        return bytes(imagecodecs.htj2k_encode(stored))
    if syntax in uid.JPEG2000TransferSyntaxes:
        return bytes(imagecodecs.jpeg2k_encode(stored, level=0, codecformat="J2K", reversible=True, bitspersample=bits))
    predictor = 1 if syntax == uid.JPEGLosslessSV1 else 6
    return bytes(imagecodecs.jpeg8_encode(stored, lossless=True, predictor=predictor, bitspersample=bits))


def _file(folder: Path, stream: bytes, syntax: str, like: np.ndarray, **elements: object) -> Path:
    """A picture without place in the patient, so that rows and columns stay as stored."""
    ds = build.dicom(like, ImagePositionPatient=None, ImageOrientationPatient=None, **elements)
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = encapsulate([stream])
    ds["PixelData"].is_undefined_length = True
    return build.save(ds, folder / "file.dcm")


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize(
    "syntax",
    [uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.HTJ2KLossless],
    ids=lambda syntax: syntax.keyword,
)
def test_lossless_grey_comes_back_as_it_was(syntax: uid.UID, bits: int, signed: bool, tmp_path: Path) -> None:
    if syntax in (uid.JPEGLSLossless, uid.HTJ2KLossless) and bits == 12:
        pytest.skip("imagecodecs writes these with 8 or 16 bits only")
    if syntax == uid.HTJ2KLossless and not hasattr(imagecodecs, "HTJ2K"):
        pytest.skip("older imagecodecs read HTJ2K but do not write it")
    stored = (NOISE * (1 + 2**bits // 600) % 2**bits).astype(np.uint8 if bits == 8 else np.uint16)
    truth = np.where(stored >= 2 ** (bits - 1), stored - 2.0**bits, stored) if signed else stored
    like = stored.view(f"i{stored.itemsize}") if signed else stored
    path = _file(tmp_path, _lossless(syntax, stored, bits), syntax, like, BitsStored=bits, HighBit=bits - 1)
    np.testing.assert_array_equal(Scan.read(path).data[0, 0], truth)


@pytest.mark.parametrize("syntax", [uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless])
def test_lossless_colours_come_back_as_they_were(syntax: uid.UID, tmp_path: Path) -> None:
    kind = "YBR_RCT" if syntax == uid.JPEG2000Lossless else "RGB"
    path = _file(tmp_path, _lossless(syntax, COLOURS, 8), syntax, COLOURS, PhotometricInterpretation=kind)
    np.testing.assert_array_equal(Scan.read(path).data[:, 0], COLOURS.transpose(2, 0, 1))


def test_colours_stored_plane_by_plane(tmp_path: Path) -> None:
    bars = np.zeros((12, 10, 3), np.uint8)
    bars[:, 5:] = (10, 20, 255)
    path = _file(tmp_path, BY_PLANE, uid.JPEGLSLossless, bars)
    np.testing.assert_array_equal(Scan.read(path).data[:, 0], bars.transpose(2, 0, 1))


def test_lossy_jpeg_of_12_bits_and_in_a_wider_container(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(64) * 40, np.arange(48) * 30).astype(np.uint16)
    stream = imagecodecs.jpeg8_encode(smooth, 98, bitspersample=12)
    path = _file(tmp_path, stream, uid.JPEGExtended12Bit, smooth, BitsStored=12, HighBit=11)
    assert np.abs(Scan.read(path).data[0, 0] - smooth.astype(int)).max() <= 8
    eight = (smooth >> 4).astype(np.uint8)
    path = _file(tmp_path, imagecodecs.jpeg8_encode(eight, 98), uid.JPEGBaseline8Bit, smooth, BitsStored=8, HighBit=7)
    assert np.abs(Scan.read(path).data[0, 0] - eight.astype(int)).max() <= 4


@pytest.mark.parametrize("part", [0.4, 0.7, 0.95])
@pytest.mark.parametrize(
    "syntax",
    [uid.JPEGBaseline8Bit, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless],
    ids=lambda syntax: syntax.keyword,
)
def test_a_picture_that_is_cut_off_is_refused(syntax: uid.UID, part: float, tmp_path: Path) -> None:
    grey = (NOISE % 256).astype(np.uint8)
    whole = imagecodecs.jpeg8_encode(grey, 90) if syntax == uid.JPEGBaseline8Bit else _lossless(syntax, grey, 8)
    with pytest.raises(ScanError, match="cannot be decoded"):
        Scan.read(_file(tmp_path, whole[: int(len(whole) * part)], syntax, grey))


def test_channels_that_the_header_does_not_know_take_no_memory(tmp_path: Path) -> None:
    empty = np.zeros((2000, 2000), np.uint8)
    stream = _lossless(uid.JPEG2000Lossless, empty, 8)
    count = 16_000  # of 4 MB each; they follow from 3 bytes each in the stream's header
    size = (38 + 3 * count).to_bytes(2) + stream[6:40] + count.to_bytes(2) + stream[42:45] * count
    with pytest.raises(ScanError, match="16000 channels"):
        Scan.read(_file(tmp_path, stream[:4] + size + stream[45:], uid.JPEG2000Lossless, empty))


def test_the_decoders_are_loaded_for_compressed_pixels_only(tmp_path: Path) -> None:
    path = build.save(build.dicom(np.zeros((4, 4), np.int16)), tmp_path / "plain.dcm")
    code = "import sys; from medfm.scan import Scan; Scan.read(sys.argv[1]); print('imagecodecs' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
