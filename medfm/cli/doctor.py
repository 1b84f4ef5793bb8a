"""`medfm doctor`: what this machine has, what it lacks, and what to do about it."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Literal

from medfm.cli.inventory import base_weights_here, shipped_adapters

__all__ = ["Finding", "examine"]

_GB = 1e9
_MEMORY_NEEDED = 4 * _GB  # the default model and a picture; a thin-slice CT takes more
_DISK_NEEDED = 2 * _GB  # base weights in float32, and the room to convert them
_TRANSFER_SYNTAXES = {
    "JPEG": "1.2.840.10008.1.2.4.50",
    "JPEG lossless": "1.2.840.10008.1.2.4.70",
    "JPEG-LS": "1.2.840.10008.1.2.4.80",
    "JPEG 2000": "1.2.840.10008.1.2.4.91",
}


@dataclass(frozen=True)
class Finding:
    """One thing looked at. Only "missing" keeps a question from being answered."""

    what: str
    found: str
    state: Literal["ok", "warning", "missing"] = "ok"
    advice: str = ""


def examine() -> list[Finding]:
    """Look at Python, packages, memory, disk, weights, adapters and DICOM decoders. Nothing is downloaded."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (_python, _packages, _imports, _room, _weights, _decoders)
    return [finding for check in checks for finding in check()]


def _python() -> Iterator[Finding]:
    yield Finding("Python", ".".join(map(str, sys.version_info[:3])))  # pip refuses a version that is too old


def _packages() -> Iterator[Finding]:
    """Every dependency by its own metadata, without importing it."""
    try:
        wanted = requires("medfm") or []
    except PackageNotFoundError:
        yield Finding("medfm", "not installed, only on the path", "missing", "pip install .")
        return
    yield Finding("medfm", version("medfm"))
    from packaging.requirements import Requirement

    for requirement in map(Requirement, wanted):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            yield Finding(requirement.name, "not installed", "missing", f"pip install '{requirement}'")
            continue
        if requirement.specifier.contains(found, prereleases=True):
            yield Finding(requirement.name, found)
        else:
            yield Finding(requirement.name, found, "missing", f"pip install '{requirement}'")


def _imports() -> Iterator[Finding]:
    """torchvision can be installed and still not load beside another build of torch; that breaks transformers too."""
    for name in ("torch", "torchvision", "transformers"):
        try:
            importlib.import_module(name)
        except Exception as error:  # any failure of a foreign package is a finding, not a crash
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            advice = "install torch and torchvision together: pip install --force-reinstall torch torchvision"
            yield Finding(f"import {name}", reason, "missing", advice)


def _room() -> Iterator[Finding]:
    from medfm.assets import cache_dir

    here = cache_dir()
    while not here.exists():
        here = here.parent
    free = shutil.disk_usage(here).free
    low = free < _DISK_NEEDED and not all(base_weights_here().values())
    advice = "free 2 GB, or set MEDFM_CACHE to a folder on another disk" if low else ""
    yield Finding("free disk for weights", f"{free / _GB:.1f} GB", "missing" if low else "ok", advice)
    import psutil

    memory = psutil.virtual_memory().available
    low = memory < _MEMORY_NEEDED
    advice = "close other programs: 4 GB are needed, 6 GB for a large CT" if low else ""
    yield Finding("free memory", f"{memory / _GB:.1f} GB", "warning" if low else "ok", advice)


def _weights() -> Iterator[Finding]:
    for name, here in base_weights_here().items():
        advice = "" if here else "fetched from the registry or the hub when first needed; needs a network once"
        yield Finding(f"weights {name}", "here" if here else "not here yet", "ok" if here else "warning", advice)
    cards = shipped_adapters()
    for card in cards:
        yield Finding(f"adapter {card.name}", f"{card.size}, {card.licence}")
    if not any(card.name == "default" for card in cards):
        yield Finding("adapter default", "not here", "missing", "reinstall medfm, or name your own with --adapter")


def _decoders() -> Iterator[Finding]:
    from medfm.scan import jpeg

    for name, uid in _TRANSFER_SYNTAXES.items():
        if jpeg.is_available(uid):
            yield Finding(f"DICOM {name}", "readable")
        else:
            yield Finding(f"DICOM {name}", "no decoder", "warning", "pip install imagecodecs")
