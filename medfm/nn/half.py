"""Half precision where the machine computes in it: convolutions and matrix products in bfloat16."""

from __future__ import annotations

import functools

import torch

__all__ = ["halved"]


def halved(device: str, *, wanted: bool = True) -> torch.autocast:
    """bfloat16 where it is `wanted` and faster; on CPUs without instructions for it everything stays float32.

    device: "cpu" or "cuda", a type without a number.
    """
    return torch.autocast(device, torch.bfloat16, enabled=wanted and _computes_half())


@functools.cache
def _computes_half() -> bool:
    """CPUs without instructions for it take several times as long in bfloat16 as in float32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))
