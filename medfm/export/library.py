"""Libraries that only exports need: imported when one is written, with a word on how to get them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from medfm.errors import MedfmError

__all__ = ["library"]


def library(name: str) -> ModuleType:
    """Import `name`. Raises MedfmError when it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise MedfmError(
            f"this export needs {name.split('.')[0]}, which is not installed; run: pip install 'medfm[export]'"
        ) from error
