"""Masks as files: NIfTI for everybody, DICOM SEG for scans that came as DICOM."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from medfm.errors import ScanError, ShapeError
from medfm.export.codes import site_of
from medfm.export.dicom_source import read_sources
from medfm.export.words import short_watermark
from medfm.scan import Mask
from medfm.scan.dicom_header import slices_of
from medfm.scan.raw import Request
from medfm.scan.volumes import write_nifti

__all__ = ["mask_nifti", "mask_seg"]

_SERIES_NUMBER = 9902


def mask_nifti(mask: Mask, path: Path, *, watermark: str = "") -> None:
    """Write the labels (.nii or .nii.gz) and, beside them, a .json with their names, millilitres and the watermark."""
    import json

    write_nifti(path, mask.array[None], mask.affine, axes=mask.axes)
    about = {"watermark": watermark, "labels": mask.to_dict()["labels"]}
    name = path.name.removesuffix(".gz").removesuffix(".nii")
    path.with_name(f"{name}.json").write_text(json.dumps(about, indent=1) + "\n")


def mask_seg(mask: Mask, source: Sequence[Path], *, watermark: str, adapter: str, version: str) -> bytes:
    """A DICOM Segmentation of `mask` on the grid of the series it was read from: one binary segment a label.

    watermark: goes into Image Comments in full, into the descriptions in short.

    Raises:
        ScanError: `source` holds no DICOM series of that grid, or one that does not say how it lies in the patient.
        ShapeError: the mask is empty.
    """
    import highdicom as hd

    sources = read_sources(source)
    values = [int(v) for v in np.unique(mask.array) if v]
    if not values:
        raise ShapeError("the mask is empty: a DICOM SEG needs at least one marked voxel")
    planes = np.stack([mask.array == value for value in values], -1).astype(np.uint8)
    segments = [
        _segment(hd, number, mask.labels.get(value, str(value)), version) for number, value in enumerate(values, 1)
    ]
    made = hd.seg.Segmentation(
        source_images=sources,
        pixel_array=_on_grid(hd, mask, planes, sources),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=hd.UID(),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="medfm",
        manufacturer_model_name="medfm",
        software_versions=version,
        device_serial_number="none",
        series_description=short_watermark(adapter, version),
        content_description=short_watermark(adapter, version),
        content_label="DRAFT",
    )
    made.ImageComments = watermark
    buffer = BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _on_grid(hd: Any, mask: Mask, planes: np.ndarray, sources: Sequence[Any]) -> Any:
    """(D, H, W, segments) on the scan's RAS grid, turned to the order and direction of the series' own slices."""
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine = to_lps @ mask.affine @ np.eye(4)[[2, 1, 0, 3]].T  # index (d, h, w) instead of (w, h, d)
    volume = hd.Volume(
        planes, affine, coordinate_system="PATIENT",
        channels={hd.ChannelDescriptor("SegmentNumber"): list(range(1, planes.shape[-1] + 1))},
    )  # fmt: skip
    geometry = _geometry(hd, sources)
    try:
        return volume.match_geometry(geometry)
    except (RuntimeError, ValueError) as error:
        raise ScanError(
            f"the mask does not lie on the grid of this DICOM series ({error}); make it from this series, or "
            "write NIfTI"
        ) from error


def _geometry(hd: Any, sources: Sequence[Any]) -> Any:
    """The grid of a series, or of the frames of one file, from its headers. Raises ScanError."""
    request = Request(shown="the series")
    slices = [item for header in sources for item in slices_of(header, Path(header.filename), request)]
    first, positions = slices[0], [item.position for item in slices]
    if first.orientation is None or first.spacing is None or any(place is None for place in positions):
        raise ScanError(
            "a DICOM SEG lies in the patient, and these images do not say how they do (a radiograph?); write NIfTI"
        )
    orientation = first.orientation.ravel().tolist()
    spacing, order = hd.spatial.get_volume_positions(positions, orientation)
    if spacing is None or order is None:
        raise ScanError(
            "the slices of this series are not equally spaced, or several lie in one place (a series in time?); a "
            "DICOM SEG of it cannot be written"
        )
    if len(slices) == 1:
        spacing = first.thickness or 1.0  # nothing tells how far apart slices are, so it is as the reader takes it
    return hd.VolumeGeometry.from_attributes(
        image_position=positions[order.index(0)], image_orientation=orientation, pixel_spacing=first.spacing,
        spacing_between_slices=spacing, number_of_frames=len(slices), rows=first.rows, columns=first.columns,
        coordinate_system="PATIENT",
    )  # fmt: skip


def _segment(hd: Any, number: int, name: str, version: str) -> Any:
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=hd.sr.CodedConcept("123037004", "SCT", "Anatomical Structure"),
        segmented_property_type=hd.sr.CodedConcept(*site_of(name.lower())),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="medfm", family=hd.sr.CodedConcept("123110", "DCM", "Artificial Intelligence"), version=version
        ),
    )
