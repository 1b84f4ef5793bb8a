"""The folders that code needs to find: what is shipped with the package, and the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

from medfm.errors import UnknownName

__all__ = ["adapter_folder", "cache_dir", "root"]


def root() -> Path:
    """Where tasks/, adapters/, configs/ and apps/ live: in the package (wheel) or beside it (clone)."""
    shipped = (package := Path(__file__).parents[1]) / "_shipped"
    return shipped if shipped.is_dir() else package.parent


def cache_dir() -> Path:
    """Where converted base weights are kept: $MEDFM_CACHE, else ~/.cache/medfm. Not created here."""
    chosen = os.environ.get("MEDFM_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "medfm"


def adapter_folder(name: str | Path) -> Path:
    """The folder of an adapter, by shipped name or by path. Raises UnknownName."""
    shipped = root() / "adapters"
    for folder in (Path(name), shipped / str(name)):
        if (folder / "medfm.json").exists():
            return folder
    known = sorted(f.parent.name for f in shipped.glob("*/medfm.json"))
    raise UnknownName(
        f"no adapter named {str(name)!r} and no folder of that path with a medfm.json; "
        f"shipped are: {', '.join(known) or 'none'}"
    )
