"""Which parameters learn at which rate."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["at_one_rate", "encoder_slower"]


def at_one_rate(module: nn.Module, rate: float) -> list[dict[str, Any]]:
    """All that learns, as one group for an optimizer."""
    return [{"params": [p for p in module.parameters() if p.requires_grad], "lr": rate}]


def encoder_slower(module: nn.Module, encoder: nn.Module, rate: float) -> list[dict[str, Any]]:
    """A trained encoder that is tuned as a whole learns at a third of the rate of the rest of `module`."""
    old = [p for p in encoder.parameters() if p.requires_grad]
    known = {id(p) for p in old}
    new = [p for p in module.parameters() if p.requires_grad and id(p) not in known]
    slow = rate / 3 if getattr(encoder, "tune", "") == "all" else rate
    return [group for group in ({"params": old, "lr": slow}, {"params": new, "lr": rate}) if group["params"]]
