"""What peft says about itself while an adapter is put on a model, kept from people who can do nothing about it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["adapting"]


@contextmanager
def adapting() -> Iterator[None]:
    """peft asks transformers 5 for an attribute by its old name; the warning is for peft."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
