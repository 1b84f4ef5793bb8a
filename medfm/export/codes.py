"""SNOMED CT codes of findings and organs, as (value, scheme, meaning); what has none is coded as "99MEDFM"."""

from __future__ import annotations

__all__ = ["Code", "code_of", "site_of"]

Code = tuple[str, str, str]

_FINDINGS: dict[str, Code] = {
    "atelectasis": ("46621007", "SCT", "Atelectasis"),
    "cardiomegaly": ("8186001", "SCT", "Cardiomegaly"),
    "effusion": ("60046008", "SCT", "Pleural effusion"),
    "pneumonia": ("233604007", "SCT", "Pneumonia"),
    "pneumothorax": ("36118008", "SCT", "Pneumothorax"),
    "mass": ("4147007", "SCT", "Mass"),
    "nodule": ("27925004", "SCT", "Nodule"),
    "brain edema": ("2032001", "SCT", "Cerebral edema"),
}
_ORGANS: dict[str, Code] = {
    "brain": ("12738006", "SCT", "Brain"),
    "heart": ("80891009", "SCT", "Heart"),
    "lung": ("39607008", "SCT", "Lung"),
    "pleura": ("3120008", "SCT", "Pleura"),
    "liver": ("10200004", "SCT", "Liver"),
    "spleen": ("78961009", "SCT", "Spleen"),
    "kidney": ("64033007", "SCT", "Kidney"),
    "stomach": ("69695003", "SCT", "Stomach"),
    "bladder": ("89837001", "SCT", "Bladder"),
    "colon": ("71854001", "SCT", "Colon"),
    "esophagus": ("32849002", "SCT", "Esophagus"),
    "trachea": ("44567001", "SCT", "Trachea"),
    "spinal cord": ("2748008", "SCT", "Spinal cord"),
}


def code_of(finding: str) -> Code:
    """The code of a finding ("in view" and "abnormality" among those without one)."""
    return _FINDINGS.get(finding, _own(finding))


def site_of(organ: str | None) -> Code:
    """The code of an organ; of the whole body where no organ is named."""
    return ("38266002", "SCT", "Entire body") if organ is None else _ORGANS.get(organ, _own(organ))


def _own(name: str) -> Code:
    return name.replace(" ", "_")[:16], "99MEDFM", name[:64].capitalize()
