"""A report as FHIR R5: a DiagnosticReport and one Observation a finding, in a collection bundle without a patient."""

from __future__ import annotations

import base64
import json
import uuid
from typing import Any

from medfm.export.codes import code_of, site_of
from medfm.export.markdown import markdown
from medfm.export.words import evidence_line, leaving, note
from medfm.scan import Finding, Measurement, Report, Sentence

__all__ = ["fhir_bundle"]

_SYSTEMS = {"SCT": "http://snomed.info/sct"}


def fhir_bundle(report: Report) -> dict[str, Any]:
    """Plain JSON of the bundle, checked by fhir.resources before it is returned.

    status is "preliminary" until a reader has decided on every sentence; the subject is left to the receiver, since
    medfm keeps no identity. Declined sentences are only in the attached Markdown.
    """
    status = "final" if report.final else "preliminary"
    stated = [s for section, own in leaving(report) if section.title != "Impression" for s in own if not s.abstained]
    observations = [_observation(report, found, s, status) for s in stated for found in s.findings]
    urls = [f"urn:uuid:{uuid.uuid4()}" for _ in observations]
    impression = [s.text for s in report.impression.sentences if s.state != "rejected" and not s.abstained]
    summary = {
        "resourceType": "DiagnosticReport",
        "status": status,
        "category": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0074", "code": "RAD"}]}],
        "code": {"coding": [{"system": "http://loinc.org", "code": "18748-4", "display": "Diagnostic imaging study"}]},
        "result": [{"reference": url} for url in urls],
        "conclusion": " ".join([*impression, report.watermark]),
        "presentedForm": [
            {"contentType": "text/markdown", "title": "Report (draft)", "data": _base64(markdown(report))}
        ],
    }
    entries = [{"fullUrl": f"urn:uuid:{uuid.uuid4()}", "resource": summary}]
    entries += [{"fullUrl": url, "resource": one} for url, one in zip(urls, observations, strict=True)]
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": entries}
    from fhir.resources.bundle import Bundle

    checked = Bundle.model_validate(bundle)
    plain: dict[str, Any] = json.loads(checked.model_dump_json())
    return plain


def _observation(report: Report, found: Finding, sentence: Sentence, status: str) -> dict[str, Any]:
    lines = [f"{sentence.text} ({note(sentence)})", *map(evidence_line, found.evidence), report.watermark]
    side = f"{found.side} " if found.side else ""
    return {
        "resourceType": "Observation",
        "status": status,
        "code": _concept(*code_of(found.finding)),
        "bodySite": {**_concept(*site_of(found.organ)), "text": f"{side}{found.organ or 'whole image'}"},
        "valueBoolean": found.present,
        "note": [{"text": line} for line in lines],
        "component": [
            {
                "code": {"text": item.label},
                "valueQuantity": {
                    "value": round(item.value, 1), "unit": item.unit,
                    "system": "http://unitsofmeasure.org", "code": item.unit.replace("ml", "mL"),
                },
            }
            for item in found.evidence if isinstance(item, Measurement) and item.unit in ("mm", "ml")
        ],
    }  # fmt: skip


def _concept(value: str, scheme: str, meaning: str) -> dict[str, Any]:
    if scheme not in _SYSTEMS:
        return {"text": meaning}
    return {"coding": [{"system": _SYSTEMS[scheme], "code": value, "display": meaning}], "text": meaning}


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
