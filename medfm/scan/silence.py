"""Keeps the libraries below from printing while a file is read: their messages may repeat a patient's name."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["silence"]

_LOGGERS = ("pydicom", "imagecodecs", "nibabel", "PIL")
_lock = threading.RLock()


@contextmanager
def silence() -> Iterator[None]:
    """No warnings and no log records of the reading libraries inside.

    Warning filters and log levels belong to the whole process, hence the lock: one file is read at a time.
    """
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)  # loggers below inherit the level
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
