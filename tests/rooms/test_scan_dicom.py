"""DICOM: order by position, one rescale, MONOCHROME1, gaps, copies, tilt, time, several series, multi-frame, colour."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scan_builders as build

from medfm.errors import ScanError, SeriesChoice
from medfm.scan import Scan

VOLUME = build.phantom()
AFFINE = build.ras_affine()


def _read(pixels: np.ndarray, folder: Path, **elements: Any) -> Scan:
    return Scan.read(build.save(build.dicom(pixels, **elements), folder / "one.dcm"))


def test_slices_are_ordered_by_position_and_not_by_number(tmp_path: Path) -> None:
    scan = Scan.read(build.series(tmp_path, VOLUME, AFFINE))
    np.testing.assert_array_equal(scan.data[0, :, 0, 0], VOLUME[:, 0, 0])
    assert (scan.modality, scan.units, scan.plane, scan.notes) == ("CT", "HU", "axial", [])


def test_rescale_happens_once_and_does_not_wrap(tmp_path: Path) -> None:
    pixels = np.array([[0, 24], [1024, 4095]], np.uint16)
    scan = _read(pixels, tmp_path, RescaleSlope=1, RescaleIntercept=-1024, ImageOrientationPatient=[-1, 0, 0, 0, -1, 0])
    np.testing.assert_array_equal(scan.data[0, 0], pixels.astype(int) - 1024)
    assert scan.data.dtype == np.int16


def test_a_range_beyond_16_bits_is_widened_and_a_fraction_is_float(tmp_path: Path) -> None:
    pixels = np.array([[0, 65535]], np.uint16)
    flip = {"ImageOrientationPatient": [-1, 0, 0, 0, -1, 0]}
    wide = _read(pixels, tmp_path, RescaleSlope=2, RescaleIntercept=-1, **flip)
    np.testing.assert_array_equal(wide.data[0, 0], [[-1, 131069]])
    fine = _read(pixels, tmp_path, RescaleSlope=0.5, RescaleIntercept=0.25, **flip)
    assert fine.data.dtype == np.float32
    np.testing.assert_allclose(fine.data[0, 0], [[0.25, 32767.75]])


def test_slices_with_different_rescale_share_one_scale(tmp_path: Path) -> None:
    for k, slope in enumerate((1.0, 0.5)):
        ds = build.dicom(
            np.full((2, 2), 10, np.int16), ImagePositionPatient=[0, 0, k], RescaleSlope=slope, Modality="PT"
        )
        build.save(ds, tmp_path / f"{k}")
    assert Scan.read(tmp_path).data[0, :, 0, 0].tolist() == [10, 5]


def test_stored_bits_above_bits_stored_are_ignored(tmp_path: Path) -> None:
    pixels = np.array([[5, 0xF005]], np.uint16)  # an overlay in the high bits
    scan = _read(pixels, tmp_path, BitsStored=12, HighBit=11)
    assert scan.data.max() <= 4095


@pytest.mark.parametrize("signed", [False, True])
def test_monochrome1_is_inverted(signed: bool, tmp_path: Path) -> None:
    pixels = np.array([[0, 100], [200, 255]], np.int16 if signed else np.uint8)
    plain = {"Modality": "DX", "ImagePositionPatient": None, "ImageOrientationPatient": None}
    one = _read(pixels, tmp_path, PhotometricInterpretation="MONOCHROME1", **plain).data.astype(int)
    two = _read(pixels, tmp_path, **plain).data.astype(int)
    assert np.unique(one + two).size == 1
    assert one[0, 0, 0, 0] > one[0, 0, 1, 1]


def test_hounsfield_units_are_not_inverted_by_a_wish_for_display(tmp_path: Path) -> None:
    scan = _read(np.array([[-1000, 40]], np.int16), tmp_path, PhotometricInterpretation="MONOCHROME1")
    assert sorted(scan.data.ravel().tolist()) == [-1000, 40]
    assert any("MONOCHROME1" in note for note in scan.notes)


def test_a_modality_table_replaces_the_rescale(tmp_path: Path) -> None:
    from pydicom.dataset import Dataset

    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType, table.LUTData = [3, 0, 16], "US", [0, 100, 1000]
    ds = build.dicom(np.array([[0, 1, 2]], np.uint8), ModalityLUTSequence=[table], Modality="DX")
    del ds.RescaleSlope, ds.RescaleIntercept, ds.ImagePositionPatient, ds.ImageOrientationPatient
    ds["ModalityLUTSequence"].value[0]["LUTDescriptor"].VR = "US"
    ds["ModalityLUTSequence"].value[0]["LUTData"].VR = "US"
    assert Scan.read(build.save(ds, tmp_path / "lut.dcm")).data.ravel().tolist() == [0, 100, 1000]


def test_a_missing_slice_is_said(tmp_path: Path) -> None:
    build.series(tmp_path, VOLUME, AFFINE)
    _at(tmp_path, 2).unlink()
    scan = Scan.read(tmp_path)
    assert scan.data.shape[1] == 5
    assert any("missing" in note for note in scan.notes)
    assert scan.spacing[2] == pytest.approx(2.5)


def test_uneven_slices_are_said(tmp_path: Path) -> None:
    for k, z in enumerate((0, 2, 4.5, 6, 8)):
        build.save(build.dicom(np.full((3, 3), k, np.int16), ImagePositionPatient=[0, 0, z]), tmp_path / f"{k}")
    assert any("uneven" in note for note in Scan.read(tmp_path).notes)


def _at(folder: Path, k: int) -> Path:
    import pydicom

    return sorted(folder.iterdir(), key=lambda path: float(pydicom.dcmread(path).ImagePositionPatient[2]))[k]


def test_copies_are_left_out_and_said(tmp_path: Path) -> None:
    build.series(tmp_path, VOLUME, AFFINE)
    shutil.copy(_at(tmp_path, 1), tmp_path / "copy1")
    scan = Scan.read(tmp_path)
    np.testing.assert_array_equal(scan.data[0], VOLUME)
    assert any("duplicate" in note for note in scan.notes)


def test_a_whole_series_copied_twice_is_one_series(tmp_path: Path) -> None:
    build.series(tmp_path / "a", VOLUME, AFFINE)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    np.testing.assert_array_equal(Scan.read(tmp_path).data[0], VOLUME)


def test_one_position_with_another_picture_is_said(tmp_path: Path) -> None:
    build.series(tmp_path / "a", VOLUME, AFFINE)
    ds = build.dicom(np.zeros((8, 10), np.int16), InstanceNumber=99)
    import pydicom

    first = pydicom.dcmread(_at(tmp_path / "a", 0))
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        setattr(ds, name, getattr(first, name))
    build.save(ds, tmp_path / "other")
    scan = Scan.read(tmp_path)
    assert scan.data.shape[1] == 6
    assert any("share a position" in note for note in scan.notes)


def test_gantry_tilt_is_said_and_kept_in_the_affine(tmp_path: Path) -> None:
    tilt = np.radians(15)
    for k in range(4):
        ds = build.dicom(
            np.full((3, 3), k, np.int16), ImagePositionPatient=[0, 0, 3 * k], PixelSpacing=[1, 1],
            ImageOrientationPatient=[1, 0, 0, 0, float(f"{np.cos(tilt):.8f}"), float(f"{-np.sin(tilt):.8f}")],
        )  # fmt: skip
        build.save(ds, tmp_path / f"{k}")
    scan = Scan.read(tmp_path)
    assert any("tilt" in note and "15" in note for note in scan.notes)
    np.testing.assert_allclose(scan.affine[:3, 2], [0, 0, 3], atol=1e-6)
    assert abs(scan.affine[:3, 1] @ scan.affine[:3, 2]) > 0.5  # a shear, not a rotation


def test_several_times_need_a_choice(tmp_path: Path) -> None:
    for time in range(3):
        for k in range(4):
            ds = build.dicom(
                np.full((3, 3), 10 * time + k, np.int16), ImagePositionPatient=[0, 0, k], TriggerTime=time * 50.0
            )
            build.save(ds, tmp_path / f"{time}{k}")
    with pytest.raises(ScanError, match="3 frames"):
        Scan.read(tmp_path)
    assert Scan.read(tmp_path, frame=1).data[0, :, 0, 0].tolist() == [10, 11, 12, 13]
    with pytest.raises(ScanError, match="frame=3"):
        Scan.read(tmp_path, frame=3)


def test_black_border_slices_do_not_hide_a_time_series(tmp_path: Path) -> None:
    for time in range(2):
        for k in range(4):
            values = np.full((3, 3), 0 if k in (0, 3) else 10 * time + k, np.int16)
            ds = build.dicom(values, ImagePositionPatient=[0, 0, k], TemporalPositionIdentifier=time + 1)
            build.save(ds, tmp_path / f"{time}{k}")
    with pytest.raises(ScanError, match="2 frames"):
        Scan.read(tmp_path)
    assert Scan.read(tmp_path, frame=1).data[0, :, 0, 0].tolist() == [0, 11, 12, 0]


def test_a_frame_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="frame=5"):
        Scan.read(build.series(tmp_path, VOLUME, AFFINE), frame=5)
    assert Scan.read(tmp_path, frame=0).data.shape == (1, 6, 8, 10)


def test_the_list_of_series_does_not_hang_on_the_names_of_files(tmp_path: Path) -> None:
    listed = []
    for copy, order in enumerate(("abc", "cab")):
        for folder, uid in zip(order, ("1.2.1", "1.2.2", "1.2.3"), strict=True):
            build.series(tmp_path / str(copy) / folder, VOLUME, AFFINE, uid=uid, SeriesNumber=7)
        with pytest.raises(SeriesChoice) as caught:
            Scan.read(tmp_path / str(copy))
        listed.append(caught.value.choices)
    assert listed[0] == listed[1] and "SeriesNumber 7" in listed[0][0]


def test_several_series_need_a_choice_that_names_nobody(tmp_path: Path) -> None:
    build.series(tmp_path / "a", VOLUME, AFFINE, uid="1.2.1", SeriesNumber=1, SeriesDescription="Thorax 2.5 B30f")
    build.series(tmp_path / "b", VOLUME + 1, AFFINE, uid="1.2.2", SeriesNumber=2, SeriesDescription="SECRETNAME scout")
    with pytest.raises(SeriesChoice) as caught:
        Scan.read(tmp_path)
    text = str(caught.value) + "".join(caught.value.choices)
    assert len(caught.value.choices) == 2
    assert "Thorax" in text and "6 slices" in text
    assert "SECRET" not in text.upper().replace("1.2", "") and build.PATIENT_ID not in text
    for wanted in (1, "1", "1.2.2"):
        assert Scan.read(tmp_path, series=wanted).data.max() == VOLUME.max() + 1
    for wrong in (2, "9.9", -1):
        with pytest.raises(SeriesChoice, match="there is no series"):
            Scan.read(tmp_path, series=wrong)


def test_mixed_sizes_and_orientations_in_one_series_need_a_choice(tmp_path: Path) -> None:
    build.series(tmp_path / "a", VOLUME, AFFINE)
    build.save(build.dicom(np.zeros((4, 4), np.int16)), tmp_path / "small")
    with pytest.raises(SeriesChoice, match="sizes") as caught:
        Scan.read(tmp_path)
    (number,) = [number for number, text in enumerate(caught.value.choices) if "6 slices" in text]
    assert f"  {number}: {caught.value.choices[number]}" in str(caught.value)
    assert Scan.read(tmp_path, series=number).data.shape == (1, 6, 8, 10)


def test_files_of_other_kinds_are_skipped_and_said(tmp_path: Path) -> None:
    build.series(tmp_path, VOLUME, AFFINE)
    (tmp_path / "README.txt").write_text("hello")
    (tmp_path / "empty").touch()
    scan = Scan.read(tmp_path)
    np.testing.assert_array_equal(scan.data[0], VOLUME)
    assert any("2 files" in note for note in scan.notes)


def test_a_report_beside_the_images_is_skipped_and_said(tmp_path: Path) -> None:
    build.series(tmp_path, VOLUME, AFFINE)
    report = build.dicom(np.zeros((2, 2), np.int16), Rows=None, Columns=None, PixelData=None, Modality="SR")
    build.save(report, tmp_path / "report")
    scan = Scan.read(tmp_path)
    assert scan.data.shape[1] == 6
    assert any("without readable pixels" in note for note in scan.notes)


def test_zip_and_folders_below_folders(tmp_path: Path) -> None:
    build.series(tmp_path / "x" / "PAT" / "ST1", VOLUME, AFFINE)
    with zipfile.ZipFile(tmp_path / "scan.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (tmp_path / "x").rglob("IM*"):
            archive.write(path, path.relative_to(tmp_path))
    from_zip, from_folder = Scan.read(tmp_path / "scan.zip"), Scan.read(tmp_path / "x")
    np.testing.assert_array_equal(from_zip.data, from_folder.data)
    assert from_zip.content_hash == from_folder.content_hash


def test_without_preamble(tmp_path: Path) -> None:
    ds = build.dicom(np.arange(12, dtype=np.int16).reshape(3, 4))
    scan = Scan.read(build.save(ds, tmp_path / "bare", preamble=False))
    assert scan.data.sum() == 66
    assert scan.modality == "CT"


def test_dicomdir(tmp_path: Path) -> None:
    from pydicom.fileset import FileSet

    files = FileSet()
    study = {"StudyDate": "20200101", "StudyTime": "120000", "StudyID": "1", "SeriesNumber": 1, "AccessionNumber": "1"}
    for path in build.series(tmp_path / "in", VOLUME, AFFINE, **study).iterdir():
        files.add(path)
    files.write(tmp_path / "cd")
    for path in (tmp_path / "cd" / "DICOMDIR", tmp_path / "cd"):
        np.testing.assert_array_equal(Scan.read(path).data[0], VOLUME)


def test_enhanced_multi_frame(tmp_path: Path) -> None:
    scan = Scan.read(build.save(build.enhanced(), tmp_path / "enhanced.dcm"))
    assert scan.data[0, :, 0, 0].tolist() == [-1000, -999, -998, -997]
    assert scan.spacing == pytest.approx((0.25, 0.5, 3.0))
    assert scan.units == "HU"


def test_enhanced_multi_frame_with_times(tmp_path: Path) -> None:
    path = build.save(build.enhanced(times=2), tmp_path / "enhanced.dcm")
    with pytest.raises(ScanError, match="2 frames"):
        Scan.read(path)
    assert Scan.read(path, frame=1).data[0, :, 0, 0].tolist() == [-990, -989, -988, -987]


def test_cine_needs_a_choice(tmp_path: Path) -> None:
    ds = build.dicom(np.zeros((2, 3), np.uint8), NumberOfFrames=5, Modality="US")
    ds.PixelData = np.repeat(np.arange(5, dtype=np.uint8), 6).tobytes()
    del ds.ImagePositionPatient, ds.ImageOrientationPatient
    path = build.save(ds, tmp_path / "cine.dcm")
    with pytest.raises(ScanError, match="5 frames"):
        Scan.read(path)
    scan = Scan.read(path, frame=3)
    assert scan.data.shape == (1, 1, 2, 3) and scan.data.max() == 3 and scan.frame == "image"


def test_colour_and_grey_stored_as_colour(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (6, 7, 3), dtype=np.uint8)
    plain = {"Modality": "XC", "ImagePositionPatient": None, "ImageOrientationPatient": None}
    scan = _read(rgb, tmp_path, **plain)
    np.testing.assert_array_equal(scan.data[:, 0], rgb.transpose(2, 0, 1))
    assert (scan.modality, scan.units) == ("PHOTO", "RGB")
    grey = np.repeat(rgb[..., :1], 3, axis=2)
    np.testing.assert_array_equal(_read(grey, tmp_path, **plain).data[0, 0], grey[..., 0])


@pytest.mark.parametrize(
    "name",
    [
        "SC_rgb_rle.dcm", "SC_rgb_rle_16bit.dcm", "SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_jpeg_gdcm.dcm", "SC_rgb_gdcm_KY.dcm",
        "SC_rgb_dcmtk_+eb+cr.dcm", "SC_rgb_dcmtk_+eb+cy+np.dcm", "SC_rgb_dcmtk_+eb+cy+s4.dcm",
        "SC_ybr_full_422_uncompressed.dcm",
    ],
)  # fmt: skip
def test_colours_are_right_however_they_are_stored(name: str) -> None:
    """One picture of colour bars as RGB and YBR, planar or not, in several compressions."""
    from pydicom.data import get_testdata_file

    scan = Scan.read(str(get_testdata_file(name)))
    bars = {5: (255, 0, 0), 25: (0, 255, 0), 45: (0, 0, 255), 65: (0, 0, 0), 95: (255, 255, 255)}
    for row, colour in bars.items():
        np.testing.assert_allclose(scan.data[:, 0, row, 50].astype(int), colour, atol=6)


def test_the_header_speaks_for_modality_and_body_part(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4), np.int16)
    named = _read(pixels, tmp_path, Modality="MR", BodyPartExamined="BRAIN")
    assert (named.modality, named.body_part, "body_part" in named.estimated) == ("MR", "head", False)
    guessed = _read(pixels, tmp_path, Modality="MR", SeriesDescription="t2_tse_sag knee")
    assert (guessed.body_part, "body_part" in guessed.estimated) == ("knee", True)
    junk = _read(pixels, tmp_path, Modality="SECRET", BodyPartExamined="SECRETNAME")
    assert (junk.modality, junk.body_part) != ("SECRET", "SECRETNAME") and "SECRET" not in repr(junk)


def test_nobody_is_named_outside_the_private_part(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:
    build.series(tmp_path / "s", VOLUME, AFFINE, PatientBirthDate="SECRETNAME", StudyDescription="SECRETNAME")
    (tmp_path / "s" / "SECRETNAME.txt").write_text("SECRETNAME")
    capfd.readouterr(), caplog.clear(), recwarn.clear()  # what pydicom said while the test wrote the files
    scan = Scan.read(tmp_path / "s")
    seen = [repr(scan), str(scan), scan.source, *scan.notes, scan.content_hash, repr(scan._identity), str(vars(scan))]
    out, err = capfd.readouterr()
    seen += [out, err, caplog.text, *(str(w.message) for w in recwarn)]
    assert not any("SECRET" in text.upper() or build.PATIENT_ID in text for text in seen)
    assert build.NAME in scan._identity["PatientName"]  # it is kept, in the private part only
