"""A pretended second device: tensors are marked as lying there, and what mixes them with others is refused, as by CUDA.

No machine of ours has a GPU, and code that forgets to move its input runs on all of them; this finds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

__all__ = ["second_device"]

_THERE = torch.device("cuda", 0)
_LENGTHS = {"_pack_padded_sequence", "_pad_packed_sequence", "gru"}  # want the lengths of sequences on the CPU


def _lies_there(x: Any) -> bool:
    return isinstance(x, Tensor) and "_there" in x.__dict__


def _put_there(out: Any) -> Any:
    """Mark all tensors of a result."""

    def mark(x: Any) -> Any:
        if isinstance(x, Tensor):
            x._there = True  # type: ignore[attr-defined]
        return x

    return tree_map(mark, out)


class _Pretended(TorchFunctionMode):
    """Follows marked tensors through every function of torch."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name, given = getattr(func, "__name__", ""), [*args, *kwargs.values()]
        tensors = [x for x in tree_flatten(given)[0] if isinstance(x, Tensor)]
        there = any(map(_lies_there, tensors))
        if getattr(func, "__self__", None) is Tensor.device:
            return _THERE if there else func(*args, **kwargs)
        if name == "cpu":
            return args[0].view_as(args[0]) if there else args[0]
        if name == "numpy" and there:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        named = (str(x) for x in given if isinstance(x, torch.device | str))
        device = next((word for word in named if word.startswith(("cuda", "cpu"))), "")
        like = name == "to" and len(args) == 2 and isinstance(args[1], Tensor)
        if name == "to" and (device or like):
            kind = args[1].dtype if like else next((x for x in given if isinstance(x, torch.dtype)), args[0].dtype)
            moved = func(args[0], kind).view_as(args[0])  # another object, the same graph
            return _put_there(moved) if device.startswith("cuda") or (like and _lies_there(args[1])) else moved
        if device.startswith("cuda"):  # torch.zeros(..., device=x.device)
            return _put_there(func(*args, **{key: value for key, value in kwargs.items() if key != "device"}))
        if there and not name.startswith("new_") and name not in _LENGTHS:
            # a number has no place, and what lies there may be indexed by what does not
            mixed = args[2:] if name in ("__getitem__", "__setitem__") and _lies_there(args[0]) else tensors
            if any(isinstance(x, Tensor) and x.ndim and not _lies_there(x) for x in mixed):
                raise RuntimeError(f"{name}: expected all tensors to be on the same device, found cuda:0 and cpu")
        out = func(*args, **kwargs)
        if name in _LENGTHS:
            _put_there([x for x in tree_flatten(out)[0] if isinstance(x, Tensor) and x.is_floating_point()])
            return out
        return _put_there(out) if there else out


@contextmanager
def second_device(*modules: nn.Module) -> Iterator[None]:
    """Within it the modules' parameters and buffers, and all that is computed of them, lie on a device "cuda:0"."""
    held = [x for module in modules for x in (*module.parameters(), *module.buffers())]
    _put_there(held)
    try:
        with _Pretended():
            yield
    finally:
        for x in held:
            del x.__dict__["_there"]
