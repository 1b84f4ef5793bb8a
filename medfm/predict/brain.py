"""What the brain model sees in MR of a head: structures in millilitres, left beside right, as sentences with masks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, cast
from weakref import WeakKeyDictionary

import numpy as np

from medfm import assets
from medfm.predict.segmenting import asymmetry, segment, volumes
from medfm.prepare import KINDS
from medfm.scan import Finding, Mask, Measurement, Scan, Sentence
from medfm.scan.report import Side

if TYPE_CHECKING:
    from medfm.segmenter import Segmenter

__all__ = ["MODEL", "describe", "is_brain_volume", "outlined"]

MODEL = "brain"
_GROUPS = {
    "Cerebrum and cerebellum": (
        "cerebral cortex", "cerebral white matter", "cerebellar cortex", "cerebellar white matter", "brain stem",
    ),
    "Ventricles": ("lateral ventricle", "third ventricle", "fourth ventricle"),
    "Medial temporal lobes": ("hippocampus", "amygdala"),
    "Deep grey matter": ("thalamus", "caudate", "putamen", "pallidum"),
}  # fmt: skip
_FLUID = ("cerebrospinal fluid", "ventricle")
_LITRES = (700.0, 2000.0)  # ml of brain tissue: outside of this an outline has failed, or it is a child's brain
_outlines: WeakKeyDictionary[Scan, Mask] = WeakKeyDictionary()  # for as long as the scan is held


def is_brain_volume(scan: Scan, region: str) -> bool:
    """MR in mm of a `region` "Head", and of a size that the model's atlas can be in."""
    mr = KINDS.get(scan.modality) == "MRI" and scan.frame == "patient" and scan.spacing_known
    return mr and region == "Head" and scan.data.shape[1] > 1 and not _model().misfit(scan.extent)


def outlined(scan: Scan) -> Mask:
    """The structures of the brain in `scan`, outlined once."""
    if scan not in _outlines:
        _outlines[scan] = segment(_model(), scan)
    return _outlines[scan]


def describe(scan: Scan) -> list[Sentence]:
    """Volumes by groups of structures, then what differs between left and right by more than outlines are off."""
    mask = outlined(scan)
    ml = volumes(mask)
    tissue = sum(size for name, size in ml.items() if not any(word in name for word in _FLUID))
    if not _LITRES[0] < tissue < _LITRES[1]:
        reason = f"the outlines make a brain of {tissue:.0f} ml, so they do not fit this scan"
        return [Sentence("The structures of the brain were outlined.", (), (mask,), abstained=True, reason=reason)]
    said = [_sentence(title, names, mask, ml) for title, names in _GROUPS.items()]
    return [*said, _sides(mask, ml)]


def _sentence(title: str, names: tuple[str, ...], mask: Mask, ml: Mapping[str, float]) -> Sentence:
    findings, parts = [], []
    for name in names:
        sizes = {side: ml[label] for side, label in _labels(name) if label in ml}
        for side, size in sizes.items():
            measured = Measurement(" ".join(filter(None, (side, name))), size, "ml")
            findings.append(Finding("in view", name, cast("Side | None", side), evidence=(measured,)))
        told = ", ".join(f"{_ml(size)}{f' {side}' if side else ''}" for side, size in sizes.items())
        parts.append(f"{name} {told}")
    return Sentence(f"{title}: {'; '.join(parts)}.", tuple(findings), (_only(mask, names),))


def _sides(mask: Mask, ml: Mapping[str, float]) -> Sentence:
    """Only a difference beyond the mean errors of both outlines, as measured for the model's card, is one."""
    off = _errors()
    pairs = {name: (f"left {name}", f"right {name}") for name in asymmetry(dict(ml))}
    apart = {
        name: (ml[left] - ml[right], off[left] + off[right])
        for name, (left, right) in pairs.items() if left in off and right in off
    }  # fmt: skip
    nearest = max(apart, key=lambda name: abs(apart[name][0]) / apart[name][1])
    uneven = [name for name, (difference, error) in apart.items() if abs(difference) > error] or [nearest]
    shown = [Measurement(f"{name}, left less right", round(apart[name][0], 1) + 0.0, "ml") for name in uneven]
    shown += [
        Measurement(f"{name}, mean error of both outlines on painted scans", apart[name][1], "ml") for name in uneven
    ]
    beyond = "by more than such outlines are off on average"
    text = f"No structure differs between left and right {beyond}."
    if abs(apart[nearest][0]) > apart[nearest][1]:
        larger = (f"{name} (larger on the {'left' if apart[name][0] > 0 else 'right'})" for name in uneven)
        text = f"Left and right differ {beyond}: {', '.join(larger)}."
    return Sentence(text, (), (_only(mask, tuple(uneven)), *shown))


def _labels(name: str) -> Iterator[tuple[str | None, str]]:
    yield from ((None, name), ("left", f"left {name}"), ("right", f"right {name}"))


def _only(mask: Mask, names: tuple[str, ...]) -> Mask:
    wanted = {label for name in names for _, label in _labels(name)}
    labels = {value: label for value, label in mask.labels.items() if label in wanted}
    kept = np.zeros(256, np.uint8)
    kept[list(labels)] = list(labels)
    return replace(mask, array=kept[mask.array], labels=labels)


def _ml(size: float) -> str:
    return f"{size:.0f} ml" if size >= 100 else f"{size:.1f} ml"


@lru_cache(maxsize=1)
def _model() -> Segmenter:
    from medfm.segmenter import load_segmenter

    return load_segmenter(MODEL)


@lru_cache(maxsize=1)
def _errors() -> dict[str, float]:
    """ml that each structure's volume was off on average where the model was measured."""
    figures = json.loads((assets.adapter_folder(MODEL) / "metrics.json").read_text(encoding="utf-8"))
    return {name: found["volume_error_ml"]["value"] for name, found in figures["classes"].items()}
