"""Organs and lesions outlined: a scan in, a mask on the scan's own grid out, with each structure's millilitres."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medfm.grid import onto_scan
from medfm.language.vocabulary import may_show, region_in, region_of, term_of
from medfm.predict.called import verb
from medfm.prepare import KINDS
from medfm.scan import Mask, Scan

if TYPE_CHECKING:
    from medfm.segmenter import Segmenter

__all__ = ["asymmetry", "cut_off", "fitting", "segment", "volumes"]

_PART = 500.0  # mm from foot to head that no single part of the body has
_HEAD = 300.0  # mm that no head and no picture of one is wider than
_FIELD = 150.0  # mm that slices of a trunk or a head measure at least; what is smaller is cut out of one


@verb
def segment(model: Segmenter, scan: Scan, *, flip: bool | None = None) -> Mask:
    """The structures of `model.labels` in `scan`, in the scan's own space: (D, H, W), values 1, 2, ...

    The scan is read tile by tile where it is larger than the model's patch. flip: look at mirrored tiles as well, where
    the model was trained on them; better by little, slower by the number of mirrors; None: as the model's folder says.
    Of a model of the whole body, what cannot lie in the part that the scan shows is left out: a brain tumour in an
    abdomen. The part is `scan.body_part`, or that of most of what was outlined; of scans longer than any part, nothing
    is left out.

    Raises ScanError: the scan holds too little of what the model fits an atlas to.
    """
    labels = model.label(model.preparation(scan), flip=flip)
    whole = scan.frame == "patient" and scan.extent[0] > _PART
    region = "" if whole else region_in(scan.body_part or "") or _most(labels, model.labels)
    far = [value for value, name in enumerate(model.labels, 1) if not may_show(region, term_of(name)[1])]
    far = far if len(far) < len(model.labels) else []  # else the scan is taken for another part than the model is of
    labels[np.isin(labels, far)] = 0
    known = {value: name for value, name in enumerate(model.labels, 1) if value not in far}
    return scan.mask(onto_scan(labels, scan, model.preparation), known)


def _most(labels: NDArray[np.uint8], names: Sequence[str]) -> str:
    """The region that more than half of all that is outlined belongs to; "" if there is none."""
    counts = np.bincount(labels.ravel(), minlength=len(names) + 1)[1:]
    shares: Counter[str] = Counter()
    for name, count in zip(names, counts.tolist(), strict=True):
        shares[region_of(term_of(name)[1])] += count
    region, most = shares.most_common(1)[0]
    return region if 2 * most > shares.total() else ""


def fitting(scan: Scan) -> str | None:
    """The shipped model that outlines scans like this one as a whole; None for kinds that none was made for.

    "brain" for volumes in MR of a head, or of an unknown part no wider than one; "organ-outlines" for other CT and MR.
    """
    kind, region, deep = KINDS.get(scan.modality), region_in(scan.body_part or ""), scan.data.shape[1] > 1
    head = region == "Head" or (not region and max(scan.extent[1:]) <= _HEAD)
    if kind in ("MRI", None) and scan.modality != "PHOTO" and deep and head:
        return "brain"
    seen = region or (scan.spacing_known and min(scan.extent[1:]) >= _FIELD)
    return "organ-outlines" if kind in ("CT", "MRI") and seen else None


def volumes(mask: Mask) -> dict[str, float]:
    """Millilitres of each label of a mask, 0.0 for one that was not found."""
    return {about["name"]: about["ml"] for about in mask.to_dict()["labels"].values()}


def cut_off(mask: Mask) -> list[str]:
    """Labels of a volume that reach its first or last voxel along an axis: their millilitres may be those of a part."""
    if min(mask.array.shape) < 2:
        return []
    found: set[int] = set()
    for axis in range(3):
        for end in (0, -1):
            found |= set(np.unique(mask.array.take(end, axis)).tolist())
    return [mask.labels.get(value, str(value)) for value in sorted(found - {0})]


def asymmetry(volumes: dict[str, float]) -> dict[str, float]:
    """Of each pair "left ..." and "right ..." of `volumes`: how much larger the left one is, in % of their mean."""
    pairs = {n[5:]: (ml, volumes.get(f"right {n[5:]}")) for n, ml in volumes.items() if n.startswith("left ")}
    return {
        name: 200 * (left - right) / (left + right)
        for name, (left, right) in pairs.items()
        if right is not None and left + right > 0
    }
