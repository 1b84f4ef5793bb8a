"""Reports and masks for other programs: Markdown, PDF, DICOM SR and SEG, FHIR, NIfTI. One module a format."""

from medfm.export.files import FORMATS, save_report

__all__ = ["FORMATS", "save_report"]
