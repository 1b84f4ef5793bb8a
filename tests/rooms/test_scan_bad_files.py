"""Bad files: each gives a ScanError that says what was found, and never another exception."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scan_builders as build

from medfm.errors import ScanError
from medfm.scan import Scan

VOLUME = build.phantom()
AFFINE = build.ras_affine()
Maker = Callable[[Path], Path]


def _bytes(name: str, content: bytes) -> Maker:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def _cut(maker: Maker, keep: float) -> Maker:
    """A valid file, cut off."""

    def make(folder: Path) -> Path:
        path = maker(folder)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * keep)])
        return path

    return make


def _swap(maker: Maker, old: bytes, new: bytes) -> Maker:
    """A valid file with some bytes changed."""

    def make(folder: Path) -> Path:
        path = maker(folder)
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new))
        return path

    return make


def _dicom(pixels: np.ndarray | None = None, **elements: Any) -> Maker:
    values = np.arange(64, dtype=np.int16).reshape(8, 8) if pixels is None else pixels
    return lambda folder: build.save(build.dicom(values, **elements), folder / "x.dcm")


def _nifti(volume: np.ndarray = VOLUME, name: str = "x.nii", **header: Any) -> Maker:
    """A NIfTI whose header fields are then overwritten in place: name -> (offset, format, *values)."""

    def make(folder: Path) -> Path:
        path = build.nifti(folder / "x.nii", volume, AFFINE)
        content = bytearray(path.read_bytes())
        for offset, form, *values in header.values():
            struct.pack_into(form, content, offset, *values)
        path.unlink()
        (folder / name).write_bytes(gzip.compress(content) if name.endswith("gz") else bytes(content))
        return folder / name

    return make


def _itk(name: str, packed: bool = False) -> Maker:
    return lambda folder: build.itk(folder / name, VOLUME, AFFINE, packed=packed)


def _npy(array: Any, name: str = "x.npy") -> Maker:
    def make(folder: Path) -> Path:
        np.save(folder / name, array, allow_pickle=True)
        return folder / name

    return make


def _npy_header(text: str, data: bytes = b"") -> bytes:
    head = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + data


def _zip(*members: tuple[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> Maker:
    def make(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "x.zip", "w", packing) as archive:
            for name, content in members:
                archive.writestr(zipfile.ZipInfo(name), content, compress_type=packing)
        return folder / "x.zip"

    return make


def _npz(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "x.npz", **arrays)
    return folder / "x.npz"


def _picture(name: str, array: np.ndarray | None = None) -> Maker:
    def make(folder: Path) -> Path:
        from PIL import Image

        values = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8) if array is None else array
        Image.fromarray(values).save(folder / name)
        return folder / name

    return make


def _encrypted_zip(folder: Path) -> Path:
    path = _zip(("a.png", b"x" * 100), packing=zipfile.ZIP_STORED)(folder)
    content = bytearray(path.read_bytes())
    content[6] |= 1  # the flag in the local header, and in the list at the end
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(bytes(content))
    return path


def _codestream_of_another_size(folder: Path) -> Path:
    """A JPEG baseline picture of 64 x 64 inside a header that says 8 x 8."""
    import io

    from PIL import Image
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGBaseline8Bit

    stream = io.BytesIO()
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(stream, "JPEG")
    ds = build.dicom(np.zeros((8, 8), np.uint8))
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds.PixelData = encapsulate([stream.getvalue()])
    return build.save(ds, folder / "x.dcm")


def _folder_of_nothing(folder: Path) -> Path:
    (folder / "in").mkdir()
    (folder / "in" / "a.txt").write_text("text")
    return folder / "in"


def _link_loop(folder: Path) -> Path:
    (folder / "in").mkdir()
    (folder / "in" / "again").symlink_to(folder / "in")
    (folder / "in" / "self").symlink_to(folder / "in" / "self")
    return folder / "in"


def _lonely_dicomdir(folder: Path) -> Path:
    from pydicom.dataset import Dataset

    record = Dataset()
    record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", ["..", "..", "etc", "passwd"]
    ds = build.dicom(np.zeros((2, 2), np.int16), Rows=None, Columns=None, PixelData=None)
    ds.DirectoryRecordSequence = [record]
    return build.save(ds, folder / "DICOMDIR")


def _special_file(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def _detached(folder: Path, target: str) -> Path:
    head = f"ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementType = MET_UCHAR\nElementDataFile = {target}\n"
    (folder / "x.mhd").write_text(head)
    return folder / "x.mhd"


NII_DIM, NII_PIXDIM, NII_SROW_X, NII_DATATYPE, NII_SFORM = 40, 76, 280, 70, 252
NRRD = b"NRRD0004\ntype: short\ndimension: 3\nsizes: %s\nencoding: %s\nspace: left-posterior-superior\n%s\n"
BOMB = b"\0" * (70 * 2**20)

# ruff: noqa: E501 (one case a line)
CASES: dict[str, tuple[Maker, str]] = {
    # whatever the kind
    "no such file": (lambda folder: folder / "absent.nii", "no such file"),
    "0 bytes": (_bytes("x.dcm", b""), "empty"),
    "one byte": (_bytes("x.nii.gz", b"\x1f"), "not a kind"),
    "text named .dcm": (_bytes("x.dcm", b"hello " * 100), "not a kind"),
    "noise": (_bytes("x.bin", np.random.default_rng(1).bytes(5000)), "not a kind|damaged|pixels"),
    "PDF named .png": (_bytes("x.png", b"%PDF-1.7\n" + b" " * 500), "not a kind"),
    "a pipe": (_special_file, "not a regular file"),
    "gzip of text": (_bytes("x.nii.gz", gzip.compress(b"hello " * 200)), "not a kind"),
    # DICOM
    "DICOM preamble only": (_bytes("x.dcm", b"\0" * 128 + b"DICM"), "pixels|damaged"),
    "DICOM cut in the header": (_cut(_dicom(), 0.3), "pixels|truncated"),
    "DICOM cut in the pixels": (_cut(_dicom(), 0.97), "truncated"),
    "DICOM without pixel data": (_dicom(PixelData=None), "without pixel data"),
    "DICOM without rows": (_dicom(Rows=None), "without pixels"),
    "DICOM with 0 rows": (_dicom(Rows=0), "at least 1"),
    "DICOM of absurd size": (_dicom(Rows=65535, Columns=65535, NumberOfFrames=100000), "GiB"),
    "DICOM of a size that its pixels lack": (_dicom(Rows=4096, Columns=4096), "truncated"),
    "DICOM spacing 0": (_dicom(PixelSpacing=[0, 0]), "spacing"),
    "DICOM spacing negative": (_dicom(PixelSpacing=[-1, 1]), "spacing"),
    "DICOM slope 0": (_dicom(RescaleSlope=0), "slope"),
    "DICOM orientation parallel": (_dicom(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "perpendicular"),
    "DICOM orientation zero": (_dicom(ImageOrientationPatient=[0, 0, 0, 0, 0, 0]), "perpendicular"),
    "DICOM mosaic of Siemens": (_dicom(ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]), "dcm2niix"),
    "DICOM position out of this world": (_dicom(PixelSpacing=[1e9, 1e9]), "mm"),
    "DICOM with unknown transfer syntax": (_swap(_dicom(), b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"), "decoded|damaged"),
    "DICOM JPEG 2000 that is none": (_swap(_dicom(), b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4.90"[:20]), "decoded|damaged"),
    "DICOM compressed picture of another size": (_codestream_of_another_size, "64 x 64"),
    "DICOM bits that cannot be": (_dicom(BitsAllocated=13), "decoded"),
    "DICOM all NaN": (
        _dicom(np.zeros((2, 2), np.float32), BitsAllocated=32, PixelData=None, FloatPixelData=b"\0\0\xc0\x7f" * 4),
        "finite",
    ),
    "DICOMDIR that points outside": (_lonely_dicomdir, "beside it"),
    # NIfTI
    "NIfTI cut in the header": (_cut(_nifti(), 0.2), "not a kind|damaged"),
    "NIfTI cut in the voxels": (_cut(_nifti(), 0.7), "truncated"),
    "NIfTI gz cut": (_cut(_nifti(name="x.nii.gz"), 0.6), "truncated|damaged"),
    "NIfTI gz with a damaged middle": (_swap(_nifti(name="x.nii.gz"), b"\x1f\x8b\x08", b"\x1f\x8b\x07"), "not a kind"),
    "NIfTI absurd size": (_nifti(dim=(NII_DIM, "<8h", 3, 32767, 32767, 32767, 1, 1, 1, 1)), "GiB"),
    "NIfTI size beyond its bytes": (_nifti(dim=(NII_DIM, "<8h", 3, 900, 900, 90, 1, 1, 1, 1)), "truncated"),
    "NIfTI gz size beyond its bytes": (
        _nifti(name="x.nii.gz", dim=(NII_DIM, "<8h", 3, 900, 900, 900, 1, 1, 1, 1)), "truncated",
    ),
    "NIfTI negative size": (_nifti(dim=(NII_DIM, "<8h", 3, -4, 8, 6, 1, 1, 1, 1)), "at least 1|damaged"),
    "NIfTI zero size": (_nifti(dim=(NII_DIM, "<8h", 3, 0, 8, 6, 1, 1, 1, 1)), "at least 1"),
    "NIfTI impossible count of dimensions": (_nifti(dim=(NII_DIM, "<h", 99)), "damaged"),
    "NIfTI unknown type": (_nifti(kind=(NII_DATATYPE, "<h", 9999)), "damaged"),
    "NIfTI zero affine": (_nifti(srow=(NII_SROW_X, "<12f", *[0.0] * 12)), "positive length"),
    "NIfTI affine that cannot be inverted": (_nifti(srow=(NII_SROW_X, "<12f", *[1.0, 0, 0, 0] * 3)), "positive|inverted"),
    "NIfTI affine of NaN": (_nifti(srow=(NII_SROW_X, "<12f", *[float("nan")] * 12)), "finite"),
    "NIfTI spacing 0 without affine": (
        _nifti(codes=(NII_SFORM, "<2h", 0, 0), pixdim=(NII_PIXDIM, "<4f", 1, 0, 0, 0)), "positive length|damaged",
    ),
    "NIfTI all NaN": (_nifti(np.full((2, 3, 4), np.nan, np.float32)), "finite"),
    "NIfTI complex": (_nifti(np.ones((2, 3, 4), np.complex64)), "not a picture"),
    # NRRD and MetaImage
    "NRRD cut": (_cut(_itk("x.nrrd"), 0.8), "truncated"),
    "NRRD packed and cut": (_cut(_itk("x.nrrd", packed=True), 0.8), "truncated|damaged"),
    "NRRD of absurd size": (_bytes("x.nrrd", NRRD % (b"9999 9999 9999", b"gzip", b"")), "GiB"),
    "NRRD without data": (_bytes("x.nrrd", NRRD % (b"50 50 50", b"raw", b"")), "truncated"),
    "NRRD of negative size": (_bytes("x.nrrd", NRRD % (b"-5 5 5", b"raw", b"")), "at least 1"),
    "NRRD with words for sizes": (_bytes("x.nrrd", NRRD % (b"a b c", b"raw", b"")), "damaged"),
    "NRRD that reads another file": (_bytes("x.nrrd", NRRD % (b"5 5 5", b"raw", b"data file: /etc/passwd\n")), "beside"),
    "NRRD space directions 0": (
        _bytes("x.nrrd", NRRD % (b"2 2 2", b"raw", b"space directions: (0,0,0) (0,1,0) (0,0,1)\n") + b"\1" * 16), "positive|truncated",
    ),
    "NRRD header without end": (_bytes("x.nrrd", b"NRRD0004\ntype: short\nsizes: 1 1\ndimension: 2\nencoding: raw"), "damaged"),
    "MHA cut": (_cut(_itk("x.mha"), 0.8), "truncated"),
    "MHA packed and cut": (_cut(_itk("x.mha", packed=True), 0.9), "truncated|damaged"),
    "MHA spacing 0": (_swap(_itk("x.mha"), b"ElementSpacing = 0.8", b"ElementSpacing = 0.0"), "damaged|positive"),
    "MHA spacing negative": (_swap(_itk("x.mha"), b"ElementSpacing = 0.8", b"ElementSpacing = -.8"), "damaged"),
    "MHA matrix that cannot be inverted": (
        _swap(_itk("x.mha"), b"TransformMatrix = -1 0 0", b"TransformMatrix = +0 0 0"), "damaged|inverted|positive",
    ),
    "MHA of absurd size": (_swap(_itk("x.mha"), b"DimSize = 10 8 6", b"DimSize = 99999 99999 99999"), "GiB"),
    "MHD that leaves its folder": (lambda folder: _detached(folder, "../../etc/passwd"), "beside"),
    "MHD with a list of files": (lambda folder: _detached(folder, "LIST"), "beside"),
    "MHD without its pixels": (lambda folder: _detached(folder, "absent.raw"), "beside"),
    # pictures
    "PNG cut": (_cut(_picture("x.png"), 0.5), "truncated"),
    "JPEG cut": (_cut(_picture("x.jpg"), 0.5), "truncated"),
    "TIFF cut": (_cut(_picture("x.tif"), 0.5), "truncated|damaged"),
    "BMP cut": (_cut(_picture("x.bmp"), 0.5), "truncated|damaged"),
    "PNG of absurd size": (_bytes("x.png", build.png_header(90_000, 90_000)), "absurd|GiB"),
    "PNG of size 0": (_bytes("x.png", build.png_header(0, 5)), "damaged|at least 1"),
    "PNG signature only": (_bytes("x.png", b"\x89PNG\r\n\x1a\n"), "damaged"),
    # NumPy
    "NPY cut": (_cut(_npy(VOLUME), 0.7), "truncated"),
    "NPY with a pickle": (_npy(np.array([{"a": 1}], dtype=object)), "pickled"),
    "NPY of absurd size": (
        _bytes("x.npy", _npy_header("{'descr': '<f8', 'fortran_order': False, 'shape': (99999, 99999, 9)}")), "GiB",
    ),
    "NPY of negative size": (
        _bytes("x.npy", _npy_header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 4)}")), "at least 1|damaged",
    ),
    "NPY header that calls": (_bytes("x.npy", _npy_header("__import__('os').system('true')")), "damaged"),
    "NPY of one number": (_npy(np.float32(3)), "shape"),
    "NPY of five dimensions": (_npy(np.zeros((2, 2, 2, 2, 2))), "shape"),
    "NPY complex": (_npy(np.zeros((4, 4), np.complex64)), "magnitude"),
    "NPY of text": (_npy(np.array([["a", "b"]])), "no numbers"),
    "NPY empty": (_npy(np.zeros((0, 4))), "at least 1"),
    "NPY all infinite": (_npy(np.full((3, 3), np.inf)), "finite"),
    "NPZ with a pickle": (lambda folder: _npz(folder, data=np.array([{1}], dtype=object)), "pickled"),
    "NPZ of several arrays": (lambda folder: _npz(folder, a=VOLUME, b=VOLUME), "choose"),
    "NPZ with a damaged affine": (lambda folder: _npz(folder, data=VOLUME, affine=np.zeros((3, 3))), "4x4"),
    "NPZ with spacing 0": (lambda folder: _npz(folder, data=VOLUME, spacing=np.zeros(3)), "positive length"),
    "a bare pickle": (_bytes("x.npy", pickle.dumps({"a": 1})), "not a kind"),
    # archives and folders
    "zip cut": (_cut(_zip(("a.png", b"\x89PNG" * 500)), 0.5), "truncated|damaged"),
    "zip of nothing": (_zip(), "no files"),
    "zip of text": (_zip(("a.txt", b"text")), "none of a kind"),
    "zip bomb": (_zip(("a.nii", BOMB)), "bomb"),
    "zip bomb of many": (_zip(*((f"{n}", BOMB[: 2**20]) for n in range(70))), "bomb"),
    "zip that climbs out": (_zip(("../../evil.png", b"x")), "outside"),
    "zip with an absolute name": (_zip(("/etc/evil.png", b"x")), "outside"),
    "zip with a drive": (_zip(("C:\\evil.png", b"x")), "outside"),
    "zip in a zip": (_zip(("inner.zip", b"PK\x03\x04" + b"\0" * 50)), "inner"),
    "zip encrypted": (_encrypted_zip, "encrypted"),
    "folder of nothing that can be read": (_folder_of_nothing, "none of a kind"),
    "folder with a loop of links": (_link_loop, "no files|none of a kind"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Invalid value")  # pydicom, while the test writes the bad file
@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", CASES)
def test_bad_file_gives_a_clear_error(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make, says = CASES[name]
    path = make(tmp_path)
    with pytest.raises(ScanError, match=says) as caught:
        Scan.read(path)
    text = str(caught.value)
    assert text.startswith(str(path)), "the path as the user typed it comes first"
    assert "SECRET" not in text and build.PATIENT_ID not in text
    assert "SECRET" not in "".join(capfd.readouterr())
    assert not list(tmp_path.parent.glob("evil*"))


@pytest.mark.parametrize("spacing", [0, -1, (1, 0), (1, 1, float("nan")), (1, 2, 3, 4)])
def test_a_wrong_spacing_argument_is_an_error(spacing: Any, tmp_path: Path) -> None:
    path = _npy(VOLUME)(tmp_path)
    with pytest.raises(ScanError, match="positive numbers in mm"):
        Scan.read(path, spacing=spacing)


def test_a_spacing_against_the_file_is_an_error(tmp_path: Path) -> None:
    path = _nifti()(tmp_path)
    with pytest.raises(ScanError, match="its own spacing"):
        Scan.read(path, spacing=9.0)
    assert Scan.read(path, spacing=(0.8, 1.2, 2.5)).spacing_known


def test_some_nan_is_replaced_and_said(tmp_path: Path) -> None:
    volume = VOLUME.astype(np.float32)
    volume[0, 0, :3] = [np.nan, np.inf, -np.inf]
    scan = Scan.read(build.nifti(tmp_path / "x.nii", volume, AFFINE))
    assert np.isfinite(scan.data).all()
    assert any("3 voxels" in note for note in scan.notes)


def test_a_link_in_a_zip_is_left_out(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    link = zipfile.ZipInfo("b.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(tmp_path / "a.png", "a.png")
        archive.writestr(link, "/etc/passwd")
    assert any("links" in note for note in Scan.read(tmp_path / "x.zip").notes)


def test_nothing_stays_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    with pytest.raises(ScanError):
        Scan.read(_zip(("a.png", b"\x89PNG\r\n\x1a\n"))(tmp_path))
    assert not list((tmp_path / "tmp").iterdir())
