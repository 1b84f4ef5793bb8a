"""DICOM headers: reading them quietly, and one `Slice` record per frame whatever the object (classic or enhanced)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medfm.errors import ScanError
from medfm.scan.limits import check_room, check_size
from medfm.scan.raw import Identity, Request

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["HEADER_TAGS", "Slice", "element", "identity_of", "number", "read_header", "slices_of", "text_of"]

HEADER_TAGS = [
    "SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "Modality", "SeriesInstanceUID",
    "SeriesNumber", "SeriesDescription", "StudyDescription", "ProtocolName", "BodyPartExamined", "ViewPosition",
    "AnatomicRegionSequence", "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge",
    "OtherPatientIDs", "AccessionNumber", "ReferringPhysicianName", "StudyInstanceUID", "StudyDate",
    "BurnedInAnnotation", "SliceThickness", "SpacingBetweenSlices", "SliceLocation", "GantryDetectorTilt",
    "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelSpacing", "SequenceOfUltrasoundRegions",
    "ImagePositionPatient", "ImageOrientationPatient", "InstanceNumber", "AcquisitionNumber", "AcquisitionTime",
    "ContentTime", "TemporalPositionIdentifier", "TriggerTime", "DiffusionBValue", "EchoTime", "EchoNumbers",
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated",
    "BitsStored", "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence",
    "DoseGridScaling", "GridFrameOffsetVector", "DirectoryRecordSequence",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
_IDENTITY = [
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "OtherPatientIDs", "AccessionNumber",
    "ReferringPhysicianName", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "StudyDate",
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Slice:
    """One frame of one file. Lengths in mm; position and orientation in DICOM's LPS."""

    path: Path
    index: int  # the frame within the file
    frames: int  # how many the file has
    header: Dataset
    rows: int
    columns: int
    position: np.ndarray | None
    orientation: np.ndarray | None  # (2, 3): direction of growing column index, of growing row index
    spacing: tuple[float, float] | None  # between rows, between columns
    thickness: float | None  # distance to the next slice, as far as the header knows it
    slope: float
    intercept: float
    order: tuple[float, ...]  # time, b-value, echo, instance: tells frames at one position apart


def read_header(path: Path, shown: str) -> Dataset:
    """Read the needed header elements without pixels; ScanError when it is not DICOM or broken."""
    import pydicom

    try:
        return pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=HEADER_TAGS)
    except Exception as error:  # pydicom raises many types on damaged files, some quoting the header
        raise ScanError(f"{shown}: the DICOM header is truncated or damaged ({type(error).__name__}).") from None


def element(header: Any, name: str) -> Any:
    """An element's value, or None when absent or unreadable: pydicom converts on access and may raise."""
    try:
        return header.get(name)
    except Exception:
        return None


def text_of(header: Any, name: str) -> str:
    """An element's value as text; empty when absent or unreadable."""
    value = element(header, name)
    try:
        return "" if value is None else str(value)
    except Exception:
        return ""


def identity_of(header: Dataset) -> Identity:
    """Who the scan belongs to, for the Scan's private part."""
    return Identity({name: text_of(header, name) for name in _IDENTITY if text_of(header, name)})


def _floats(value: Any, count: int) -> list[float] | None:
    """`count` finite numbers, or None when the element is absent, empty or unreadable."""
    try:
        numbers = [float(v) for v in (value if np.iterable(value) else [value])]
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else None


def number(value: Any) -> float | None:
    """One finite number, or None when it is absent or unreadable."""
    numbers = _floats(value, 1)
    return numbers[0] if numbers else None


def slices_of(header: Dataset, path: Path, request: Request) -> list[Slice]:
    """One record per frame. Raises ScanError when there are no pixels or the header's numbers are impossible."""
    rows, columns = number(element(header, "Rows")), number(element(header, "Columns"))
    if rows is None or columns is None:
        raise ScanError(
            f"{request.shown}: a DICOM object without pixels (a report, plan, contour or waveform?). Give an image."
        )
    if "MOSAIC" in text_of(header, "ImageType"):  # its position is that of the whole picture, not of a slice
        raise ScanError(
            f"{request.shown}: a Siemens mosaic, all slices of a volume side by side in one picture. Convert it to "
            "NIfTI, say with dcm2niix."
        )
    frames = int(number(element(header, "NumberOfFrames")) or 1)
    samples = int(number(element(header, "SamplesPerPixel")) or 1)
    bits = int(number(element(header, "BitsAllocated")) or 8)
    check_size((int(rows), int(columns), max(frames, 1), samples), max(bits // 8, 1), request.shown)
    check_room(frames, path.stat().st_size, request.shown)  # even packed, a frame takes a byte
    per_frame = element(header, "PerFrameFunctionalGroupsSequence")
    shared = element(header, "SharedFunctionalGroupsSequence")
    if per_frame and len(per_frame) < frames:
        raise ScanError(
            f"{request.shown}: {frames} frames, but geometry for {len(per_frame)} only; the header is damaged."
        )
    offsets = _floats(element(header, "GridFrameOffsetVector"), frames)
    found = []
    for index in range(frames):
        groups = [per_frame[index]] if per_frame else []
        groups += [shared[0]] if shared else []
        offset = offsets[index] if offsets else None
        found.append(_slice(header, groups, path, index, frames, (int(rows), int(columns)), offset, request))
    return found


def _slice(
    header: Dataset,
    groups: list[Any],
    path: Path,
    index: int,
    frames: int,
    size: tuple[int, int],
    offset: float | None,
    request: Request,
) -> Slice:
    """Collect one frame's geometry from its functional groups, else from the top of the header."""

    def look(sequence: str, name: str) -> Any:
        for group in groups:
            items = element(group, sequence)
            value = element(items[0], name) if items else None
            if value is not None:
                return value
        # a classic multi-frame has one position for all frames: it says nothing about each
        return element(header, name) if frames == 1 or groups or offset is not None else None

    position = _floats(look("PlanePositionSequence", "ImagePositionPatient"), 3)
    orientation = _floats(look("PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    axes = _axes(orientation, request) if orientation else None
    place = np.asarray(position) if position else None
    if place is not None and axes is not None and offset is not None:
        place = place + np.cross(axes[0], axes[1]) * offset
    slope = number(look("PixelValueTransformationSequence", "RescaleSlope") or element(header, "RescaleSlope"))
    intercept = number(
        look("PixelValueTransformationSequence", "RescaleIntercept") or element(header, "RescaleIntercept")
    )
    dose = number(element(header, "DoseGridScaling"))
    if slope == 0:
        raise ScanError(f"{request.shown}: the rescale slope is 0, every voxel would be the same. Export again.")
    spacing = _spacing(
        look("PixelMeasuresSequence", "PixelSpacing"), header, place is not None and axes is not None, request
    )
    gap = number(look("PixelMeasuresSequence", "SpacingBetweenSlices"))
    thick = number(look("PixelMeasuresSequence", "SliceThickness"))
    return Slice(
        path=path, index=index, frames=frames, header=header, rows=size[0], columns=size[1],
        position=place, orientation=axes, spacing=spacing,
        thickness=next((abs(v) for v in (gap, thick) if v), None),
        slope=dose if dose is not None else 1.0 if slope is None else slope,
        intercept=0.0 if intercept is None or dose is not None else intercept,
        order=_order(header, look, index),
    )  # fmt: skip


def _order(header: Dataset, look: Any, index: int) -> tuple[float, ...]:
    values = (
        look("FrameContentSequence", "TemporalPositionIndex") or element(header, "TemporalPositionIdentifier"),
        look("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime") or element(header, "TriggerTime"),
        look("MRDiffusionSequence", "DiffusionBValue"),
        look("MREchoSequence", "EffectiveEchoTime") or element(header, "EchoTime"),
        element(header, "AcquisitionNumber"),
        element(header, "InstanceNumber"),
        index,
    )
    return tuple(number(value) or 0.0 for value in values)


def _axes(orientation: list[float], request: Request) -> np.ndarray:
    """The two in-plane directions as unit vectors; ScanError unless they are perpendicular."""
    axes = np.asarray(orientation).reshape(2, 3)
    lengths = np.linalg.norm(axes, axis=1)
    if np.abs(lengths - 1).max() > 0.05 or abs(float(axes[0] @ axes[1])) > 0.02:
        raise ScanError(
            f"{request.shown}: Image Orientation (Patient) is not two perpendicular unit vectors: a damaged header."
        )
    return axes / lengths[:, None]


def _spacing(pixel_spacing: Any, header: Dataset, placed: bool, request: Request) -> tuple[float, float] | None:
    """(between rows, between columns) in mm: of the patient, else of the detector, else of the ultrasound region."""
    candidates = (pixel_spacing, element(header, "ImagerPixelSpacing"), element(header, "NominalScannedPixelSpacing"))
    for value in candidates:
        numbers = _floats(value, 2)
        if numbers and min(numbers) > 0:
            return numbers[0], numbers[1]
        if numbers and placed:  # a picture without geometry may leave it at 0: then it is unknown
            raise ScanError(
                f"{request.shown}: pixel spacing {numbers[0]:g} x {numbers[1]:g} mm; both must be positive. "
                "Correct the DICOM header."
            )
    regions = element(header, "SequenceOfUltrasoundRegions")
    if regions and number(element(regions[0], "PhysicalUnitsXDirection")) == 3:  # 3 = cm
        x, y = number(element(regions[0], "PhysicalDeltaX")), number(element(regions[0], "PhysicalDeltaY"))
        if x and y:
            return abs(y) * 10, abs(x) * 10
    return None
