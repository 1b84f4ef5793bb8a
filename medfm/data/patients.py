"""Splits by patient, for every kind of case, and what a card says of one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from torch import Tensor

from medfm.errors import DataError
from medfm.grid import GridPrepare
from medfm.image.intensity import coloured

__all__ = ["OfPatient", "Pictured", "of_held_patients", "split_patients", "told_of_colour", "told_of_split"]


class OfPatient(Protocol):
    """Whatever belongs to one patient."""

    @property
    def patient(self) -> str:
        """Any string; what shares it is never split."""


class Pictured(Protocol):
    """Whatever holds what a network reads, x (C, D, H, W)."""

    x: Tensor


Item = TypeVar("Item", bound=OfPatient)


def split_patients(
    items: Sequence[Item], *, hold: float | Sequence[str] | None, seed: int
) -> tuple[list[Item], list[Item]]:
    """Training and held-out items: a share of the patients drawn with `seed`, or the patients named.

    Raises DataError where `hold` is None, as it is in a recipe that does not say who is held out.
    """
    if hold is None:
        raise DataError(
            "nobody is held out: give data.validate, another data set, or data.hold, a share of the patients"
        )
    patients = sorted({item.patient for item in items})
    if isinstance(hold, float | int):
        order = np.random.default_rng(seed).permutation(len(patients))
        held = {patients[i] for i in order[: max(1, round(hold * len(patients)))]}
    else:
        held = set(map(str, hold))
    return [i for i in items if i.patient not in held], [i for i in items if i.patient in held]


def of_held_patients(items: Sequence[Item], about: Mapping[str, Any]) -> tuple[list[Item], list[Item]]:
    """Items of the patients that a model's `about` lists as held out of its training, and those of all others.

    Raises DataError where none is held out.
    """
    named = set(about.get("held out", []))
    held, rest = ([item for item in items if (item.patient in named) == inside] for inside in (True, False))
    if not held:
        raise DataError(f"none of the {len(items)} scans is of a patient held out of the model's training")
    return held, rest


def told_of_split(data: dict[str, Any], cases: Sequence[OfPatient], held: Iterable[OfPatient]) -> dict[str, Any]:
    """What a card must say of a recipe's `data`, without where it lay: names of the set and of held-out patients.

    Who is on both sides, as the one patient of a set may be, is not held out.
    """
    return {
        "data": Path(str(data["train"])).name,
        "trained on": len(cases),
        "held out": sorted({case.patient for case in held} - {case.patient for case in cases}),
    }


def told_of_colour(cases: Sequence[Pictured], prepare: GridPrepare) -> dict[str, bool]:
    """Whether most of what was trained on is photographs in colour; a grey scan is not shown to such a model.

    Nothing is said of CT in three windows, whose channels differ without being colours.
    """
    if prepare.intensity == "windows":
        return {}
    return {"colour": sum(coloured(case.x.numpy()) for case in cases[:20]) > min(20, len(cases)) / 2}
