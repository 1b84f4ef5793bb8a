"""What a head may count on, of every encoder of the registry: a level's channels, strides and size.

A new encoder, which has no entry here, is made with its defaults.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from medfm import config, registry

CONV = {"ndim": 2, "channels": [4, 8, 8]}
MADE: dict[str, dict[str, Any]] = {
    "hybrid": {"width": 96, "depth": 1, "heads": 4}, "conv": CONV, "shared": {"tune": "none"},
    "views": {"inner": {"name": "conv", **CONV}}, "dual_path": {"first": 8, "widths": [8, 8, 8, 8]},
    "stack": {"channels": [4, 4]}, "vit": {"size": [96, 96, 96], "width": 24, "depth": 4, "heads": 2, "hidden": 24,
                                           "taps": [1, 2, 3, 4]},
    "resnet_vit": {"size": 96, "channels": [128, 128, 128], "blocks": [1, 1, 1], "stem": 32, "width": 32, "depth": 1,
                   "heads": 2},
    "swin": {"width": 12, "depths": [1, 1], "heads": [2, 2]},
}  # fmt: skip
ELSEWHERE = {
    "inception": "as published, without padding: its levels are smaller",
    "hub": "a tower to be fetched, tests/rooms/test_hub_encoder.py",
}


@pytest.mark.parametrize("name", sorted(set(registry.names("encoders")) - set(ELSEWHERE)))
def test_levels_are_as_wide_and_as_coarse_as_they_say(name: str) -> None:
    encoder = config.build("encoders", {"name": name, **MADE.get(name, {})}).eval()
    inputs = getattr(encoder, "inputs", 3 if name in ("hybrid", "shared", "views") else 1)
    size = (96, 96, 96) if name == "vit" else (8, 96, 96)
    with torch.no_grad():
        pyramid = encoder(torch.rand(1, inputs, *size), torch.ones(1, 3))
    assert len(pyramid) == len(encoder.channels) == len(encoder.strides)
    for level, channels, stride in zip(pyramid, encoder.channels, encoder.strides, strict=True):
        assert tuple(level.shape) == (1, channels, *(-(-n // s) for n, s in zip(size, stride, strict=True)))
    assert all(a <= b for a, b in zip(encoder.strides, encoder.strides[1:], strict=False)), "finest first"
