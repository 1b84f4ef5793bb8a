"""Lesions in MR of a head, by a model of them and both halves of the brain: side, volume, score and mask of each."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, cast
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from medfm import assets
from medfm.grid import resample
from medfm.language.vocabulary import LESIONS
from medfm.scan import Finding, Mask, Measurement, Scan
from medfm.scan.report import Side

if TYPE_CHECKING:
    from medfm.finder import LesionFinder

__all__ = ["BRAIN_LESION", "LESION_MODEL", "LOOKED_FOR", "Part", "find_lesions", "finding", "lesion_model", "parts"]

BRAIN_LESION = "brain lesion"
LOOKED_FOR = (
    "Only lesions of 5 to 40 mm that are brighter or darker than the brain around them were looked for, by a model "
    "that learned them from painted scans and misses about half of those under 10 mm; vessels, skull and all else were "
    "not."
)
LESION_MODEL = "lesions"
_CANDIDATE = 0.1  # probability from which a voxel may belong to a lesion: how sure that makes one, says the score
_MOST = 8  # parts of a map that are worth a score; a map of more is noise
_found: WeakKeyDictionary[Scan, list[Finding]] = WeakKeyDictionary()  # for as long as the scan is held


class Part(NamedTuple):
    """A connected part of a lesion map: the probabilities (D, H, W) on the model's grid without other parts, its side,
    the highest of them, and its millilitres."""

    map: NDArray[np.float32]
    side: Side
    highest: float
    ml: float

    @property
    def inputs(self) -> tuple[float, float, float]:
        """What a score is fitted to: the logit of the highest probability, the logarithm of the ml, 1."""
        top = min(max(self.highest, 1e-4), 1 - 1e-4)
        return float(np.log(top / (1 - top))), float(np.log(self.ml)), 1.0


def lesion_model() -> LesionFinder | None:
    """The adapter "lesions", shipped or one's own, if there is one."""
    names = {folder.name for folder in (*assets.shipped_adapters(), *assets.own_adapters())}
    return _loaded() if LESION_MODEL in names else None


def find_lesions(scan: Scan) -> list[Finding]:
    """Lesions of the brain in `scan`, the likeliest first; looked for once. One finding that none is there where no
    voxel is suspicious. Empty without a model.

    Each has the score as its confidence; its mask, ml and largest extent are its evidence.
    """
    model = lesion_model()
    if model is None:
        return []
    if scan not in _found:
        made = [finding(model, part, scan) for part in parts(model, scan)]
        _found[scan] = sorted(made, key=lambda f: -(f.confidence or 0)) or [
            Finding(BRAIN_LESION, LESIONS[BRAIN_LESION].organ, confidence=0.0)
        ]
    return _found[scan]


def parts(model: LesionFinder, scan: Scan) -> list[Part]:
    """The parts of the map of lesions in which something is suspicious."""
    from scipy import ndimage

    lesion, left = model.probabilities(scan)
    voxel = float(np.prod(scan.spacing)) * scan.data[0].size / lesion.size / 1000
    numbered, count = ndimage.label(lesion > _CANDIDATE, np.ones((3, 3, 3)))
    tops = ndimage.maximum(lesion, numbered, np.arange(1, count + 1)) if count else np.zeros(0)
    found = []
    for number in np.argsort(-np.asarray(tops))[:_MOST] + 1:
        inside = numbered == number
        side = "left" if left[inside].mean() > 0.5 else "right"
        alone = np.where(ndimage.binary_dilation(inside), lesion, np.float32(0))
        highest = float(lesion[inside].max())
        ml = float((alone > _edge(highest)).sum()) * voxel
        found.append(Part(alone, cast("Side", side), highest, ml))
    return found


def finding(model: LesionFinder, part: Part, scan: Scan) -> Finding:
    """A part as a finding on the scan's own grid, with the model's score as its confidence."""
    score = 1 / (1 + float(np.exp(-np.dot(model.score, part.inputs))))
    _, d, h, w = scan.data.shape
    inside = resample(part.map[None], (d, h, w))[0] > _edge(part.highest)
    mask = scan.mask(inside.astype(np.uint8), {1: BRAIN_LESION})
    ml = float(mask.array.sum(dtype=np.int64)) * mask.voxel_volume / 1000
    extent = _extent(mask)
    shown = (mask, Measurement(f"{BRAIN_LESION}, volume", ml, "ml"))
    return Finding(BRAIN_LESION, LESIONS[BRAIN_LESION].organ, part.side, True, extent, score, shown)


def _edge(highest: float) -> float:
    """The probability at the border of a part."""
    return min(0.5, max(_CANDIDATE, highest / 2))


def _extent(mask: Mask) -> float:
    """The largest distance in mm between two of its voxels, their own width included."""
    from scipy.spatial import ConvexHull, QhullError
    from scipy.spatial.distance import pdist

    places = np.argwhere(mask.array)[:, ::-1] @ mask.affine[:3, :3].T
    try:
        places = places[ConvexHull(places).vertices]
    except (QhullError, ValueError):  # flat, or hardly a voxel
        places = places[:: max(1, len(places) // 2000)]
    return float(pdist(places).max() if len(places) > 1 else 0.0) + mask.voxel_volume ** (1 / 3)


@lru_cache(maxsize=1)
def _loaded() -> LesionFinder:
    from medfm.finder import load_finder

    return load_finder(LESION_MODEL)
