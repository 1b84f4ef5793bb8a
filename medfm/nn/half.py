"""Half precision where the machine computes in it, and right: convolutions and matrix products in bfloat16."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["halved"]


@contextmanager
def halved(device: str, *, wanted: bool = True) -> Iterator[None]:
    """bfloat16 where it is `wanted` and faster; on CPUs without instructions for it everything stays float32.

    device: "cpu" or "cuda", a type without a number.
    """
    if not (wanted and _computes_half()):
        yield
        return
    with torch.autocast(device, torch.bfloat16), _ShallowInFloat32():
        yield


class _ShallowInFloat32(TorchFunctionMode):
    """3D convolutions of what is shallower than their kernel, in float32.

    oneDNN (torch 2.14, CPUs with AVX-512) leaves parts of the gradient of such kernels unwritten in bfloat16: what was
    in memory before, sometimes NaN, comes out as their gradient (tests/rooms/test_half.py fails without this mode).
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:  # fmt: skip
        if function in (torch.conv3d, torch.conv_transpose3d) and args[0].device.type == "cpu":
            x, kernel, *others = args
            if any(n < k for n, k in zip(x.shape[2:], kernel.shape[2:], strict=True)):
                with torch.autocast("cpu", enabled=False):
                    plain = (other.float() if isinstance(other, Tensor) else other for other in others)
                    return function(x.float(), kernel.float(), *plain, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


@functools.cache
def _computes_half() -> bool:
    """CPUs without instructions for it take several times as long in bfloat16 as in float32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))
