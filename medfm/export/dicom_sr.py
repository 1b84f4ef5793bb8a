"""A report as DICOM Structured Report (TID 1500): its measurements and sentences, tied to the images of the series."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from medfm.export.codes import code_of, site_of
from medfm.export.dicom_source import read_sources
from medfm.export.words import evidence_line, leaving, note, short_watermark
from medfm.scan import Finding, Measurement, Report, Sentence

__all__ = ["structured_report"]

_SERIES_NUMBER = 9901


def structured_report(report: Report, source: Sequence[Path]) -> bytes:
    """A Comprehensive SR file: unverified, partial until a reader has decided on every sentence.

    Each sentence that is stated with findings becomes a measurement group (TID 1501) with its finding, site, side,
    lengths in mm and the sentence as comment; every other sentence a comment of its own. The watermark is the first.

    Raises:
        ScanError: `source` holds no DICOM image.
    """
    import highdicom as hd

    sources = read_sources(source)
    content = _content(hd, report)
    document = hd.sr.ComprehensiveSR(
        evidence=sources,
        content=content[0],
        series_instance_uid=hd.UID(),
        series_number=_SERIES_NUMBER,
        series_description=short_watermark(report.adapter, report.version),
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="medfm",
        is_complete=report.final,
        is_final=False,
        is_verified=False,
    )
    buffer = BytesIO()
    document.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _content(hd: Any, report: Report) -> Any:
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=hd.UID(), manufacturer_name="medfm", model_name=_short(f"{report.model}, adapter {report.adapter}", 64),
        name=_short(f"medfm {report.version}", 64),
    )  # fmt: skip
    observer = hd.sr.ObserverContext(
        observer_type=hd.sr.CodedConcept("121007", "DCM", "Device"), observer_identifying_attributes=device
    )
    groups: list[Any] = []
    remarks = [report.watermark]
    for section, sentences in leaving(report):
        for sentence in sentences:
            if sentence.findings and not sentence.abstained and section.title != "Impression":
                groups += [_group(hd, found, sentence, len(groups)) for found in sentence.findings]
            remarks.append(f"{section.title}: {sentence.text} ({note(sentence)})")
    made = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=hd.sr.CodedConcept("363679005", "SCT", "Imaging procedure"),
        imaging_measurements=groups,
        title=hd.sr.CodedConcept("126000", "DCM", "Imaging Measurement Report"),
    )
    comment = hd.sr.CodedConcept("121106", "DCM", "Comment")
    relation = hd.sr.RelationshipTypeValues.CONTAINS
    for text in remarks:
        made[0].ContentSequence.append(hd.sr.TextContentItem(name=comment, value=text, relationship_type=relation))
    return made


def _group(hd: Any, found: Finding, sentence: Sentence, number: int) -> Any:
    lengths = [
        hd.sr.Measurement(
            name=hd.sr.CodedConcept("410668003", "SCT", "Length"), value=round(item.value, 1),
            unit=hd.sr.CodedConcept("mm", "UCUM", "mm"),
        )
        for item in found.evidence if isinstance(item, Measurement) and item.unit == "mm"
    ]  # fmt: skip
    presence = ("52101004", "SCT", "Present") if found.present else ("2667000", "SCT", "Absent")
    said = hd.sr.QualitativeEvaluation(
        name=hd.sr.CodedConcept("705057003", "SCT", "Presence"), value=hd.sr.CodedConcept(*presence)
    )
    laterality = {"left": ("7771000", "SCT", "Left"), "right": ("24028007", "SCT", "Right")}.get(found.side or "")
    site = hd.sr.FindingSite(
        anatomic_location=hd.sr.CodedConcept(*site_of(found.organ)),
        laterality=hd.sr.CodedConcept(*laterality) if laterality else None,
    )
    group = hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=hd.UID(), identifier=f"finding {number + 1}"),
        finding_type=hd.sr.CodedConcept(*code_of(found.finding)),
        finding_sites=[site],
        measurements=lengths or None,
        qualitative_evaluations=[said],
    )
    comment = hd.sr.CodedConcept("121106", "DCM", "Comment")
    relation = hd.sr.RelationshipTypeValues.CONTAINS
    for text in (f"{sentence.text} ({note(sentence)})", *(evidence_line(item) for item in found.evidence)):
        group[0].ContentSequence.append(hd.sr.TextContentItem(name=comment, value=text, relationship_type=relation))
    return group


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "~"
