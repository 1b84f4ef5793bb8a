"""The eye's weights in an adapter folder: all of them, or only those that differ from a parent's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from medfm.assets.places import adapter_folder, own_adapters, shipped_adapters
from medfm.assets.tensors import write_tensors
from medfm.errors import AdapterMismatch, UnknownName

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["eye_digest", "eye_structures", "eye_tensors", "write_eye"]

_FILE = "vision.safetensors"


def eye_tensors(folder: Path) -> dict[str, Tensor]:
    """The eye of an adapter as stored (half precision), what it shares with its parent taken from there.

    Raises:
        AdapterMismatch: the parent is gone, or is no longer the one that the adapter was made from.
    """
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = load_file(folder / _FILE)
    about = folder / "medfm.json"
    parent = json.loads(about.read_text()).get("parent") if about.exists() else None
    if parent is None:
        return tensors
    try:
        source = adapter_folder(parent["name"])
    except UnknownName as error:
        raise AdapterMismatch(
            f"adapter {folder.name} holds only what differs from its parent {parent['name']!r}, which is not here; "
            f"put that adapter back ({error})"
        ) from error
    if (found := eye_digest(source)) != parent["eye"]:
        raise AdapterMismatch(
            f"adapter {folder.name} holds only what differs from the eye {parent['eye'][:12]} of {parent['name']!r}; "
            f"found {found[:12]} there. Put the older {parent['name']!r} back, or fine-tune again from this one"
        )
    return {**eye_tensors(source), **tensors}


def eye_structures(name: str) -> tuple[dict[str, Tensor], list[str]]:
    """The part of an adapter's eye that draws maps, and the names of the maps. Raises UnknownName: no such adapter."""
    folder = adapter_folder(name)
    known: list[str] = json.loads((folder / "medfm.json").read_text()).get("vision", {}).get("labels", [])
    start = "structures."
    tensors = {n.removeprefix(start): t.float() for n, t in eye_tensors(folder).items() if n.startswith(start)}
    return tensors, known


def write_eye(tensors: Mapping[str, Tensor], folder: Path, *, parent: Path | None = None) -> dict[str, str] | None:
    """Write an eye in half precision; of one made from a named adapter only what has changed.

    Returns what `medfm.json` has to say as `parent`: its name and the sha256 of its eye; None where all is stored,
    as it is where the parent is a folder somewhere, which could be gone tomorrow.
    """
    import torch

    halves = {n: (t.half() if t.is_floating_point() else t).cpu().contiguous() for n, t in tensors.items()}
    if parent is None or parent.resolve() not in [f.resolve() for f in (*shipped_adapters(), *own_adapters())]:
        write_tensors(halves, folder / _FILE)
        return None
    known = eye_tensors(parent)
    changed = {n: t for n, t in halves.items() if n not in known or not torch.equal(known[n], t)}
    write_tensors(changed, folder / _FILE)
    return {"name": parent.name, "eye": eye_digest(parent)}


def eye_digest(folder: Path) -> str:
    """sha256 of the eye's file in an adapter folder: what was trained on one eye does not fit another."""
    with (folder / _FILE).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
