"""A damaged file of any kind gives a finite Scan or a ScanError: no other exception, no hang, no name."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scan_builders as build

from medfm.errors import ScanError
from medfm.scan import Scan

VOLUME = build.phantom()
AFFINE = build.ras_affine(angle=10.0)
ROUNDS = 60  # per kind


def _picture(kind: str) -> Callable[[Path], bytes]:
    def make(folder: Path) -> bytes:
        from PIL import Image

        stream = io.BytesIO()
        pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(stream, kind)
        return stream.getvalue()

    return make


def _dicom(folder: Path) -> bytes:
    return build.save(build.dicom(VOLUME[0]), folder / "seed").read_bytes()


def _compressed_dicom(name: str) -> Callable[[Path], bytes]:
    def make(folder: Path) -> bytes:
        from pydicom.data import get_testdata_file

        found = get_testdata_file(name)
        return Path(str(found)).read_bytes()

    return make


def _nifti(folder: Path) -> bytes:
    return build.nifti(folder / "seed.nii", VOLUME, AFFINE).read_bytes()


def _nrrd(folder: Path) -> bytes:
    return build.itk(folder / "seed.nrrd", VOLUME, AFFINE).read_bytes()


def _packed_nrrd(folder: Path) -> bytes:
    return build.itk(folder / "seed.nrrd", VOLUME, AFFINE, packed=True).read_bytes()


def _mha(folder: Path) -> bytes:
    return build.itk(folder / "seed.mha", VOLUME, AFFINE).read_bytes()


def _packed_mha(folder: Path) -> bytes:
    return build.itk(folder / "seed.mha", VOLUME, AFFINE, packed=True).read_bytes()


def _npy(folder: Path) -> bytes:
    np.save(folder / "seed.npy", VOLUME)
    return (folder / "seed.npy").read_bytes()


def _npz(folder: Path) -> bytes:
    np.savez_compressed(folder / "seed.npz", data=VOLUME, affine=AFFINE)
    return (folder / "seed.npz").read_bytes()


def _zip(folder: Path) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/x.dcm", _dicom(folder))
    return stream.getvalue()


SEEDS: dict[str, Callable[[Path], bytes]] = {
    "dicom": _dicom,
    "dicom jpeg 2000": _compressed_dicom("MR_small_jp2klossless.dcm"),
    "dicom jpeg-ls": _compressed_dicom("MR_small_jpeg_ls_lossless.dcm"),
    "dicom rle": _compressed_dicom("MR_small_RLE.dcm"),
    "dicom jpeg lossless": _compressed_dicom("SC_rgb_jpeg_gdcm.dcm"),
    "dicom jpeg 12": _compressed_dicom("JPGExtended.dcm"),
    "dicom jpeg": _compressed_dicom("SC_rgb_small_odd_jpeg.dcm"),
    "dicom implicit": _compressed_dicom("MR_small_implicit.dcm"),
    "nifti": _nifti,
    "nifti gz": lambda folder: gzip.compress(_nifti(folder)),
    "nrrd": _nrrd,
    "nrrd gz": _packed_nrrd,
    "mha": _mha,
    "mha z": _packed_mha,
    "npy": _npy,
    "npz": _npz,
    "zip": _zip,
    "png": _picture("PNG"),
    "jpeg": _picture("JPEG"),
    "tiff": _picture("TIFF"),
    "bmp": _picture("BMP"),
}


def _mutate(seed: bytes, rng: np.random.Generator) -> bytes:
    """One to eight changed bytes, mostly near the start where headers are; sometimes a cut, a repeat or a gap."""
    content = bytearray(seed)
    for _ in range(int(rng.integers(1, 9))):
        reach = max(1, len(content) if rng.random() < 0.4 else min(len(content), 600))
        at = int(rng.integers(reach))
        action = rng.random()
        if action < 0.55:
            content[at : at + 1] = bytes([int(rng.integers(256))])
        elif action < 0.75:
            content[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"9999", b"-1 0"])
        elif action < 0.85:
            del content[at : at + int(rng.integers(1, 40))]
        elif action < 0.95:
            content[at:at] = content[at : at + int(rng.integers(1, 40))]
        else:
            del content[max(1, at) :]
    return bytes(content)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", SEEDS)
def test_mutations_give_a_scan_or_a_scan_error(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    seed = SEEDS[kind](tmp_path)
    assert Scan.read(_write(tmp_path, seed)).data.size, "the seed itself is read"
    rng = np.random.default_rng([len(kind), *kind.encode()])
    read = 0
    for turn in range(ROUNDS):
        path = _write(tmp_path, _mutate(seed, rng))
        try:
            scan = Scan.read(path)
        except ScanError as error:
            assert "SECRET" not in str(error), turn
            continue
        read += 1
        assert np.isfinite(scan.data).all() and np.isfinite(scan.affine).all(), turn
        assert scan.data.ndim == 4 and scan.data.shape[0] in (1, 3), turn
        assert "SECRET" not in repr(scan) + "".join(scan.notes), turn
    assert read < ROUNDS
    assert "SECRET" not in "".join(capfd.readouterr())


def _write(folder: Path, content: bytes) -> Path:
    path = folder / "mutant"
    path.write_bytes(content)
    return path


def test_any_few_bytes_are_refused(tmp_path: Path) -> None:
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    starts = [b"", b"\0" * 128 + b"DICM", b"\x5c\x01\0\0", b"NRRD0005\n", b"NDims = 3\n", b"\x93NUMPY", b"PK\x03\x04"]
    starts += [b"\x1f\x8b", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"BM", b"\x08\0\x05\0"]

    @settings(
        max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
    )
    @given(start=st.sampled_from(starts), rest=st.binary(max_size=600))
    def run(start: bytes, rest: bytes) -> None:
        with pytest.raises(ScanError):
            Scan.read(_write(tmp_path, start + rest))

    run()
