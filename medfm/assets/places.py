"""The folders that code needs to find: what is shipped with the package, and the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_dir", "root"]


def root() -> Path:
    """Where tasks/, adapters/, configs/ and apps/ live: in the package (wheel) or beside it (clone)."""
    shipped = (package := Path(__file__).parents[1]) / "_shipped"
    return shipped if shipped.is_dir() else package.parent


def cache_dir() -> Path:
    """Where converted base weights are kept: $MEDFM_CACHE, else ~/.cache/medfm. Not created here."""
    chosen = os.environ.get("MEDFM_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "medfm"
