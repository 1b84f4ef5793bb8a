"""The draft report of a conversation: what a surface shows of it, a reader's word on a sentence, and files of it."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medfm.assistant.evidence import Item, box_item, mask_items
from medfm.errors import MedfmError

if TYPE_CHECKING:
    from medfm.assistant.conversation import Conversation
    from medfm.scan import Mask, Report, Scan, Sentence

__all__ = ["FORMS", "decide", "drafted", "written"]

# What a reader can take along -> the file's name.
FORMS = {
    "Markdown": "report.md", "PDF": "report.pdf", "FHIR": "report.fhir.json", "DICOM SR": "report-sr.dcm",
    "DICOM SEG": "masks-seg.zip", "NIfTI masks": "masks-nifti.zip",
}  # fmt: skip
_DICOM = ("DICOM SR", "DICOM SEG")
_MASKS = ("DICOM SEG", "NIfTI masks")

Decision = Literal["accept", "edit", "reject"]


def drafted(talk: Conversation) -> dict[str, Any]:
    """The report in plain JSON types, each sentence with its evidence as items; {"sections": []} without one."""
    report = talk.report
    if report is None or talk.current is None:
        return {"sections": [], "open": talk.current is not None}
    scan = talk.current
    sections = [
        {"title": section.title, "sentences": [_shown(talk, sentence, scan) for sentence in section.sentences]}
        for section in report.sections
    ]
    left = sum(sentence.state == "draft" for sentence in report.sentences())
    return {
        "sections": sections, "context": dict(report.context), "watermark": report.watermark, "left": left,
        "final": report.final, "forms": _forms(talk), "open": True,
    }  # fmt: skip


def decide(talk: Conversation, section: int, sentence: int, decision: Decision, text: str = "") -> None:
    """Put a reader's word on one sentence of the report; both numbers count from 0, sections as in `drafted`.

    Raises MedfmError: no report, no such sentence, or nothing written in its place.
    """
    report = _report(talk)
    try:
        if section < 0 or sentence < 0:
            raise IndexError
        old = report.sections[section].sentences[sentence]
    except IndexError:
        raise MedfmError("The report has no such sentence any more; look at it again.") from None
    if decision == "edit" and not text.strip():
        raise MedfmError("A sentence cannot be empty; reject it instead.")
    words = " ".join(text.split())
    changes = {"accept": old.accept, "edit": lambda: old.edit(words), "reject": old.reject}
    talk.report = report.changed(section, sentence, changes[decision]())
    talk.log("decide", outcome=decision, scan=talk.current)


def written(talk: Conversation, form: str, folder: Path, *, source: Sequence[Path] = ()) -> Path:
    """Write the report or the masks as `form` (of FORMS) into `folder` and return the file.

    source: the DICOM files that the scan was read from. Raises MedfmError: nothing to write, or not in that form.
    """
    if form not in FORMS:
        raise MedfmError(f"There is no export {form!r}; choose one of {', '.join(FORMS)}.")
    path = folder / FORMS[form]
    if form in _MASKS:
        _write_masks(talk, form, path, source)
    else:
        from medfm.export import save_report

        save_report(_report(talk), path, scan=talk.current, source=source)
    talk.log("export", format=form, scan=talk.current)
    return path


def _shown(talk: Conversation, sentence: Sentence, scan: Scan) -> dict[str, Any]:
    """A sentence and its evidence; a measurement of the box before it is a further number on that box."""
    from medfm.scan import Mask, Measurement

    items: list[Item] = []
    for evidence in sentence.evidence:
        if isinstance(evidence, Measurement):
            number = f"{evidence.value:.{1 if evidence.unit == 'ml' else 0}f} {evidence.unit}"
            if items and evidence.label.startswith(items[-1].label):
                if evidence.unit == "ml" and items[-1].number.endswith("ml"):  # the mask has told it
                    continue
                items[-1] = replace(items[-1], number=", ".join(filter(None, (items[-1].number, number))))
            else:
                items.append(Item(evidence.label, number))
        elif isinstance(evidence, Mask):
            index = next((i for i, (_, mask) in enumerate(talk.masks) if mask is evidence), None)
            items += mask_items(evidence, index, measured=scan.spacing_known)
        else:
            items.append(box_item(scan, evidence))
    return {**sentence.to_dict(), "findings": len(sentence.findings), "evidence": [item.to_dict() for item in items]}


def _forms(talk: Conversation) -> list[str]:
    """The forms that this scan can be exported in."""
    dicom = talk.current is not None and talk.current.source.lower().startswith("dicom")
    return [
        form for form in FORMS
        if (form not in _DICOM or dicom) and (form not in _MASKS or _masks(talk))
    ]  # fmt: skip


def _report(talk: Conversation) -> Report:
    if talk.report is None:
        raise MedfmError("There is no draft yet. Draft a report first.")
    return talk.report


def _masks(talk: Conversation) -> list[Mask]:
    return [mask for which, mask in talk.masks if which == "current"]


def _write_masks(talk: Conversation, form: str, path: Path, source: Sequence[Path]) -> None:
    """One file a mask, in a zip: masks of two requests may overlap."""
    from medfm.export.masks import mask_nifti, mask_seg

    masks = _masks(talk)
    if not masks:
        raise MedfmError("There is no mask yet. Segment something first.")
    watermark = "Draft by medfm; not for diagnosis." if talk.report is None else talk.report.watermark
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, mask in enumerate(masks, 1):
            if form == "DICOM SEG":
                archive.writestr(f"mask-{number}.dcm", _seg(talk, mask_seg, mask, source, watermark))
                continue
            made = path.with_name(f"mask-export-{number}.nii.gz")
            mask_nifti(mask, made, watermark=watermark)
            for file in (made, made.with_name(f"mask-export-{number}.json")):
                archive.write(file, file.name.replace("-export", ""))
                file.unlink()


def _seg(talk: Conversation, mask_seg: Any, mask: Mask, source: Sequence[Path], watermark: str) -> bytes:
    from importlib.metadata import version

    adapter = talk.report.adapter if talk.report is not None else "task model"
    made: bytes = mask_seg(mask, source, watermark=watermark, adapter=adapter, version=version("medfm"))
    return made
