"""Splits by patient, for every kind of case, and what a card says of one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from torch import Tensor

from medfm.errors import DataError
from medfm.image.intensity import coloured

__all__ = ["OfPatient", "Pictured", "split_patients", "told_of_colour", "told_of_split"]


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


def told_of_split(data: dict[str, Any], cases: Sequence[OfPatient], held: Iterable[OfPatient]) -> dict[str, Any]:
    """What a card must say of a recipe's `data`, without where it lay: names of the set and of held-out patients."""
    return {
        "data": Path(str(data["train"])).name,
        "trained on": len(cases),
        "held out": sorted({case.patient for case in held}),
    }


def told_of_colour(cases: Sequence[Pictured]) -> dict[str, bool]:
    """Whether most of what was trained on is photographs in colour; a grey scan is not shown to such a model."""
    return {"colour": sum(coloured(case.x.numpy()) for case in cases[:20]) > min(20, len(cases)) / 2}
