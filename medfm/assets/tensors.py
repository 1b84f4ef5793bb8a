"""Weights as files that others may read too: safetensors makes them its owner's alone."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["readable", "write_tensors"]


def write_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Save as safetensors, with the permissions of any new file: an adapter lies in folders that a group shares.

    Raises OSError: the disk is full, or the like; what was in the file stays.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    except SafetensorError as error:
        raise OSError(errno.EIO, f"the weights could not be written ({error})", str(file)) from error
    readable(file)


def readable(file: Path) -> None:
    """Give a file the permissions that the umask of this process gives new ones."""
    mask = os.umask(0)
    os.umask(mask)
    file.chmod(0o666 & ~mask)
