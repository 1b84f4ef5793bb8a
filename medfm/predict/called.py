"""The first mistakes, told in words: a path in the place of a scan, a name in that of a model, an unfit scan."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from inspect import signature
from os import PathLike
from typing import Any, TypeVar, cast

from medfm.errors import ScanError, UnlikeTraining
from medfm.scan import Scan

__all__ = ["verb"]

_NO_IMAGES = {"RTDOSE": "the doses of a radiotherapy plan", "SEG": "a segmentation"}

F = TypeVar("F", bound=Callable[..., Any])


def verb(function: F) -> F:
    """A public verb of a model and a scan that says, by a TypeError, what it was given instead of them.

    A scan that is no image raises ScanError; one of another kind than a task's model has learned from is worth an
    UnlikeTraining warning.
    """
    names = signature(function)

    @wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        given = names.bind(*args, **kwargs).arguments
        if isinstance(given["model"], str | PathLike):
            raise TypeError(
                f"the model is a name, {str(given['model'])!r}; load it first: medfm.load, load_segmenter, ..."
            )
        if not isinstance(given["scan"], Scan):
            raise TypeError(f"the scan is a {type(given['scan']).__name__}; expected a Scan: medfm.Scan.read(path)")
        if what := _NO_IMAGES.get(given["scan"].modality):
            raise ScanError(f"this is {what} ({given['scan'].modality}), no image; open the scan that it belongs to")
        first = given["model"][0] if isinstance(given["model"], Sequence) else given["model"]
        for doubt in _doubts(first, given["scan"]):
            warnings.warn(f"{first.name or 'the model'} was {doubt}. Do not believe what it says.", UnlikeTraining, 2)
        return function(*args, **kwargs)

    return cast(F, called)


def _doubts(model: Any, scan: Scan) -> list[str]:
    """What speaks against showing a task's model such a scan."""
    from medfm.fitting import doubts, too_wide
    from medfm.stored import Stored

    if not isinstance(model, Stored):
        return []
    return [*doubts(model.kind, model.settings, scan), *too_wide(model.kind, model.settings, scan)]
