"""Every export is read back by a program that is not ours, and each says that it is a draft."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from report_builders import small_report
from scan_builders import dicom, enhanced, phantom, ras_affine, save, series

from medfm.errors import MedfmError, ScanError, ShapeError
from medfm.export import save_report
from medfm.export.markdown import markdown
from medfm.export.masks import mask_nifti, mask_seg
from medfm.image.geometry import corners_of, rectangle_of
from medfm.scan import Box, Finding, Mask, Measurement, Report, Scan, Section, Sentence

WARNING = "not for diagnosis"


def ct_report(scan: Scan) -> Report:
    low, high = corners_of(scan, (1, 2, 3), (3, 6, 7), plane="axial")
    seen = (Box("Left Kidney", low, high, 0.9, 2), Measurement("Left Kidney", 31.0, "mm"))
    found = Finding("in view", "kidney", "left", True, 31.0, 0.9, seen)
    sentence = Sentence("The left kidney is in view.", (found,), seen, 0.9)
    struck = Sentence("Struck out.").reject()
    return Report(
        Section("Technique", (Sentence("CT."),)), (Section("Abdomen", (sentence, struck)),),
        Section("Impression", (sentence,)), context={"indication": "<b>pain</b> *bold*"},
        model="medfm with tiny", adapter="default", version="0.1.0",
    )  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return series(tmp_path / "ct", phantom(), ras_affine())


def output_of(program: str, *arguments: str) -> str:
    """What an outside reader prints; it must not complain."""
    found = shutil.which(program)
    if not found:
        pytest.skip(f"{program} is not installed")
    return subprocess.run([found, *arguments], capture_output=True, text=True, check=True).stdout


def test_markdown_is_no_markup(tmp_path: Path) -> None:
    report = small_report().changed(1, 0, Sentence("<img src=x> [a](b) _c_ # d"))
    text = markdown(report)
    assert "\\<img src=x\\>" in text and "\\[a\\](b)" in text and "\\_c\\_ \\# d" in text
    assert text.count(WARNING) == 2
    save_report(report, str(tmp_path / "r.md"))
    assert (tmp_path / "r.md").read_text() == text


def test_rejected_sentences_leave_no_export(source: Path, tmp_path: Path) -> None:
    report = ct_report(Scan.read(source))
    assert "Struck out" not in markdown(report)
    save_report(report, tmp_path / "r.fhir.json")
    assert "Struck out" not in (tmp_path / "r.fhir.json").read_text()


def test_pdf_read_by_poppler(source: Path, tmp_path: Path) -> None:
    scan = Scan.read(source)
    save_report(ct_report(scan), tmp_path / "r.pdf", scan=scan)
    text = output_of("pdftotext", "-layout", str(tmp_path / "r.pdf"), "-")
    assert WARNING in text and "The left kidney is in view." in text and "<b>pain</b>" in text
    listed = output_of("pdfimages", "-list", str(tmp_path / "r.pdf"))
    assert len(listed.splitlines()) == 3  # two lines of heading, one key image


def test_sr_read_by_dcmtk(source: Path, tmp_path: Path) -> None:
    save_report(ct_report(Scan.read(source)), tmp_path / "r.dcm", source=[source])
    shown = output_of("dsrdump", "+Pl", str(tmp_path / "r.dcm"))
    for said in (
        "PARTIAL",
        "UNVERIFIED",
        WARNING,
        "The left kidney is in view.",
        '"31" (mm,UCUM',
        '(7771000,SCT,"Left")',
    ):
        assert said in shown.replace('"31.0"', '"31"'), said


def test_sr_belongs_to_the_patient_of_its_images(source: Path, tmp_path: Path) -> None:
    import pydicom

    save_report(ct_report(Scan.read(source)), tmp_path / "r.dcm", source=[source])
    made = pydicom.dcmread(tmp_path / "r.dcm")
    assert (made.PatientID, made.StudyInstanceUID) == ("ID987654", "1.2.3")
    assert made.SeriesInstanceUID != "1.2.3.4"
    assert WARNING in made.SeriesDescription


@pytest.mark.parametrize("kind", ["series", "one slice", "enhanced"])
def test_seg_lies_where_the_mask_lies(kind: str, tmp_path: Path) -> None:
    if kind == "enhanced":  # all frames in one file, where no frame has its place at the top of the header
        source = save(enhanced(), tmp_path / "enhanced.dcm")
    else:
        source = series(tmp_path / "ct", phantom()[: 1 if kind == "one slice" else None], ras_affine())
    scan = Scan.read(source)
    array = np.zeros(scan.data.shape[1:], np.uint8)
    array[0, 1, 2], array[-1, 0, 1] = 1, 7
    mask = Mask(array, scan.affine, {1: "liver", 7: "spleen"})
    seg = tmp_path / "seg.dcm"
    seg.write_bytes(mask_seg(mask, [source], watermark=f"Draft; {WARNING}", adapter="default", version="0.1.0"))
    import pydicom

    made = pydicom.dcmread(seg)
    assert WARNING in made.ImageComments and WARNING in made.SeriesDescription
    names = [item.SegmentLabel for item in made.SegmentSequence]
    group = made.SharedFunctionalGroupsSequence[0]
    axes = np.array(group.PlaneOrientationSequence[0].ImageOrientationPatient).reshape(2, 3)
    row_mm, column_mm = group.PixelMeasuresSequence[0].PixelSpacing
    places = {}
    for item, pixels in zip(made.PerFrameFunctionalGroupsSequence, made.pixel_array, strict=True):
        own = item if "PlanePositionSequence" in item else group  # of one slice it is shared
        origin = np.array(own.PlanePositionSequence[0].ImagePositionPatient, float)
        name = names[item.SegmentIdentificationSequence[0].ReferencedSegmentNumber - 1]
        for row, column in np.argwhere(pixels):
            places[name] = (origin + axes[0] * column * column_mm + axes[1] * row * row_mm) * [-1, -1, 1]
    assert set(places) == {"liver", "spleen"}
    for value, name in mask.labels.items():
        d, h, w = np.argwhere(array == value)[0]
        assert places[name] == pytest.approx((scan.affine @ [w, h, d, 1])[:3], abs=1e-4)


def test_seg_of_images_without_one_place_in_the_patient_is_refused(tmp_path: Path) -> None:
    film = dicom(np.zeros((4, 5), np.uint16), Modality="DX", ImagePositionPatient=None, ImageOrientationPatient=None)
    for ds, why in ((film, "radiograph"), (enhanced(times=2), "in time")):
        path = save(ds, tmp_path / "image.dcm")
        mask = Mask(np.ones(Scan.read(path, frame=0).data.shape[1:], np.uint8), np.eye(4))
        with pytest.raises(ScanError, match=why):
            mask_seg(mask, [path], watermark="", adapter="a", version="0")


def test_seg_of_another_grid_is_refused(source: Path) -> None:
    elsewhere = Mask(np.ones((3, 3, 3), np.uint8), np.diag([7.0, 7, 7, 1]), {})
    with pytest.raises(ScanError, match="grid"):
        mask_seg(elsewhere, [source], watermark="", adapter="a", version="0")
    with pytest.raises(ShapeError, match="empty"):
        mask_seg(Mask(np.zeros((3, 3, 3), np.uint8), np.eye(4)), [source], watermark="", adapter="a", version="0")


def test_nifti_mask_read_by_nibabel(tmp_path: Path) -> None:
    import nibabel

    array = np.zeros((4, 5, 6), np.uint8)
    array[1, 2, 3] = 2
    mask_nifti(Mask(array, ras_affine(), {2: "liver"}), tmp_path / "m.nii.gz", watermark=f"Draft; {WARNING}")
    image = nibabel.load(tmp_path / "m.nii.gz")
    assert np.array_equal(np.asanyarray(image.dataobj).transpose(2, 1, 0), array)
    assert np.allclose(image.affine, ras_affine())
    about = json.loads((tmp_path / "m.json").read_text())
    assert about["labels"]["2"]["name"] == "liver" and WARNING in about["watermark"]


def test_fhir_bundle_is_valid(source: Path, tmp_path: Path) -> None:
    from fhir.resources.bundle import Bundle

    save_report(ct_report(Scan.read(source)), tmp_path / "r.fhir.json")
    bundle = Bundle.model_validate_json((tmp_path / "r.fhir.json").read_text())
    summary, *observations = [entry.resource for entry in bundle.entry]
    assert summary.status == "preliminary" and WARNING in summary.conclusion
    assert [reference.reference for reference in summary.result] == [entry.fullUrl for entry in bundle.entry[1:]]
    (kidney,) = observations
    assert kidney.valueBoolean is True and kidney.bodySite.text == "left kidney"
    assert float(kidney.component[0].valueQuantity.value) == 31


def test_wrong_requests_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MedfmError, match=r"\.pdf"):
        save_report(small_report(), tmp_path / "r.docx")
    with pytest.raises(ScanError, match="Markdown"):
        save_report(small_report(), tmp_path / "r.dcm", source=[tmp_path])
    assert not (tmp_path / "r.dcm").exists()


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_box_is_drawn_where_it_was_found(plane: str) -> None:
    scan = Scan.from_array(phantom(), affine=ras_affine())
    shape = scan.slices(plane)[0].shape[2:]
    low, high = corners_of(scan, (1, 2, 3), (2, 4, 6), plane=plane)
    shares = np.array(rectangle_of(scan, low, high, plane=plane)) * [shape[1], shape[0], shape[1], shape[0]]
    assert shares == pytest.approx([3, 2, 6, 4])


def test_exports_of_one_series_of_a_zip_refer_to_that_series(tmp_path: Path) -> None:
    """Of several series the one with most images was taken, whichever had been read."""
    import pydicom

    from medfm.cli.app import dicom_files
    from medfm.cli.segmenting import _write_seg

    series(tmp_path / "study" / "a", phantom(), ras_affine(), uid="1.2.3.1")
    series(tmp_path / "study" / "b", phantom()[:3], ras_affine(), uid="1.2.3.2")
    archive = Path(shutil.make_archive(str(tmp_path / "study"), "zip", tmp_path / "study"))
    scan = Scan.read(archive, series="1.2.3.2")
    with dicom_files(archive, scan) as files:
        save_report(ct_report(scan), tmp_path / "sr.dcm", scan=scan, source=files)
        assert len(files) == 3
    _write_seg(Mask(np.ones(scan.data.shape[1:], np.uint8), scan.affine, {1: "liver"}), tmp_path / "seg.dcm",
               archive, scan, "brain")  # fmt: skip
    evidence = pydicom.dcmread(tmp_path / "sr.dcm").CurrentRequestedProcedureEvidenceSequence
    assert [s.SeriesInstanceUID for study in evidence for s in study.ReferencedSeriesSequence] == ["1.2.3.2"]
    assert [s.SeriesInstanceUID for s in pydicom.dcmread(tmp_path / "seg.dcm").ReferencedSeriesSequence] == ["1.2.3.2"]
