"""Names of findings and organs: which structure of the eye says what, the words people use for it, where it is told."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["LESIONS", "ORGANS", "PAIRED", "REGIONS", "Lesion", "may_show", "region_in", "region_of", "term_of"]


class Lesion(NamedTuple):
    """A disease that can be drawn: its organ, its words (the first is used in writing), where it has been learned."""

    organ: str
    words: tuple[str, ...]
    sided: bool
    views: tuple[tuple[str, str], ...]  # (modality, region); elsewhere nothing is known about it


_CHEST_FILM = (("X-Ray", "Chest"),)
_HEAD_MR = (("MRI", "Head"),)
LESIONS: dict[str, Lesion] = {
    "atelectasis": Lesion("lung", ("atelectasis",), True, _CHEST_FILM),
    "cardiomegaly": Lesion("heart", ("cardiomegaly", "enlarged heart", "heart is enlarged"), False, _CHEST_FILM),
    "effusion": Lesion("pleura", ("pleural effusion", "effusion"), True, _CHEST_FILM),
    "infiltrate": Lesion("lung", ("infiltrate", "infiltration"), True, _CHEST_FILM),
    "mass": Lesion("lung", ("pulmonary mass", "mass"), True, _CHEST_FILM),
    "nodule": Lesion("lung", ("pulmonary nodule", "nodule"), True, _CHEST_FILM),
    "pneumonia": Lesion("lung", ("pneumonia",), True, _CHEST_FILM),
    "pneumothorax": Lesion("pleura", ("pneumothorax",), True, _CHEST_FILM),
    "lung cancer": Lesion("lung", ("lung cancer", "lung tumour", "lung tumor"), True, (("CT", "Chest"),)),
    "liver cancer": Lesion("liver", ("liver cancer", "liver tumour", "liver tumor"), False,
                           (("CT", "Abdomen"), ("MRI", "Abdomen"))),
    "brain edema": Lesion("brain", ("brain edema", "brain oedema", "edema", "oedema"), True, _HEAD_MR),
    "brain enhancing tumor": Lesion("brain", ("enhancing brain tumour", "brain enhancing tumor"), True, _HEAD_MR),
    "brain non-enhancing tumor": Lesion(
        "brain", ("non-enhancing brain tumour", "brain non-enhancing tumor"), True, _HEAD_MR
    ),
    # of a volume, by a model of its own that knows painted lesions only: it is told what it sees, not what that is
    "brain lesion": Lesion("brain", ("region of unusual brightness", "brain lesion"), True, ()),
}  # fmt: skip

PAIRED = frozenset(
    {"ear", "eye", "femoral head", "kidney", "lung", "mandible", "parotid", "temporal lobe", "cerebral hemisphere"}
)

REGIONS: dict[str, tuple[str, ...]] = {
    "Head": (
        "brain",
        "temporal lobe",
        "brain stem",
        "cerebral hemisphere",
        "eye",
        "ear",
        "mandible",
        "parotid",
        "tooth",
    ),
    "Neck": ("larynx", "trachea"),
    "Chest": ("lung", "pleura", "heart", "esophagus"),
    "Abdomen": ("liver", "spleen", "kidney", "stomach", "duodenum", "small bowel", "colon"),
    "Pelvis": ("bladder", "rectum", "femoral head"),
    "Spine": ("spinal cord",),
}  # fmt: skip
ORGANS: dict[str, str] = {organ: region for region, organs in REGIONS.items() for organ in organs}


_PARTS = {
    "Chest": ("chest", "lung", "thorax", "heart", "mediast"), "Abdomen": ("abdom", "liver"), "Pelvis": ("pelvi",),
    "Head": ("head", "brain", "face", "skull"), "Neck": ("neck",),
}  # fmt: skip
_BESIDE = {  # regions that an image of one region can show, too
    "Head": ("Head", "Neck", "Spine"), "Neck": ("Head", "Neck", "Chest", "Spine"),
    "Chest": ("Neck", "Chest", "Abdomen", "Spine"), "Abdomen": ("Chest", "Abdomen", "Pelvis", "Spine"),
    "Pelvis": ("Abdomen", "Pelvis", "Spine"),
}  # fmt: skip


def region_in(text: str) -> str:
    """The region that words about a part of the body mean: "upper abdomen" -> "Abdomen"; "" for none of them."""
    words = text.lower()
    return next((region for region, parts in _PARTS.items() if any(part in words for part in parts)), "")


def may_show(region: str, organ: str | None) -> bool:
    """An organ may be in view where its region or one beside it is; anywhere if either is not known."""
    own = region_of(organ)
    return region not in _BESIDE or own not in REGIONS or own in _BESIDE[region]


def region_of(organ: str | None) -> str:
    """The heading under which an organ is described."""
    return ORGANS.get(organ or "", "Other")


def term_of(label: str) -> tuple[str, str, str | None]:
    """(finding, organ, side) of a structure's label: "Left Kidney" -> ("in view", "kidney", "left")."""
    name = " ".join(label.lower().split())
    if name in LESIONS:
        return name, LESIONS[name].organ, None
    first, _, rest = name.partition(" ")
    if first in ("left", "right") and rest in PAIRED:
        return "in view", rest, first
    return "in view", name, None
