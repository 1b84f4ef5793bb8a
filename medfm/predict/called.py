"""The first mistakes of a notebook, told in words: a path in the place of a scan, a name in that of a model."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from os import PathLike
from typing import Any, TypeVar, cast

from medfm.scan import Scan

__all__ = ["verb"]

F = TypeVar("F", bound=Callable[..., Any])


def verb(function: F) -> F:
    """A public verb of a model and a scan that says, by a TypeError, what it was given instead of them."""
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
        return function(*args, **kwargs)

    return cast(F, called)
