"""The folders that code needs to find: what is shipped with the package, the user's own adapters, the user's cache."""

from __future__ import annotations

import difflib
import json
import os
from pathlib import Path

from medfm.errors import UnknownName

__all__ = ["adapter_folder", "cache_dir", "home_dir", "kind_of", "own_adapters", "root", "shipped_adapters"]


def root() -> Path:
    """Where tasks/, adapters/, configs/ and apps/ live: in the package (wheel) or beside it (clone)."""
    shipped = (package := Path(__file__).parents[1]) / "_shipped"
    return shipped if shipped.is_dir() else package.parent


def cache_dir() -> Path:
    """Where converted base weights are kept: $MEDFM_CACHE, else ~/.cache/medfm. Not created here."""
    chosen = os.environ.get("MEDFM_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "medfm"


def home_dir() -> Path:
    """Where a user's own adapters and runs are kept: $MEDFM_HOME, else the platform's data folder. Not created here."""
    from platformdirs import user_data_path

    chosen = os.environ.get("MEDFM_HOME")
    return Path(chosen).expanduser() if chosen else user_data_path("medfm", appauthor=False)


def shipped_adapters() -> list[Path]:
    """Folders of the adapters that come with the package, by name."""
    return sorted(f.parent for f in (root() / "adapters").glob("*/medfm.json"))


def own_adapters() -> list[Path]:
    """Folders of the adapters that `medfm finetune` left in the user's data folder, by name."""
    return sorted(f.parent for f in (home_dir() / "adapters").glob("*/medfm.json"))


def adapter_folder(name: str | Path) -> Path:
    """The folder of an adapter, by shipped name, by the name of one's own, or by path. Raises UnknownName."""
    shipped, own = root() / "adapters", home_dir() / "adapters"
    for folder in (Path(name), shipped / str(name), own / str(name)):
        if (folder / "medfm.json").exists():
            return folder
    known, mine = ([f.name for f in found] for found in (shipped_adapters(), own_adapters()))
    close = difflib.get_close_matches(str(name), [*known, *mine], n=1)
    raise UnknownName(
        f"no adapter named {str(name)!r} and no folder of that path with a medfm.json"
        + (f". Did you mean {close[0]!r}? " if close else "; ")
        + f"shipped are: {', '.join(known)}; your own: {', '.join(mine) or 'none'}"
    )


def kind_of(name: str | Path) -> str:
    """What a model is for, "segment", "prompt", "detect" and so on; see `adapter_folder`."""
    about = json.loads((adapter_folder(name) / "medfm.json").read_text(encoding="utf-8"))
    return str(about.get("kind", "answers"))
