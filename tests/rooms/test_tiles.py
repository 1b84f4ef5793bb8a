"""What is decided of tiles."""

from __future__ import annotations

import numpy as np
import torch

from medfm.nn.tiles import label_tiles


def test_the_likeliest_class_is_the_first_of_equals() -> None:
    scores = torch.randint(0, 4, (5, 3, 16, 16), generator=torch.Generator().manual_seed(0)) / 4
    for patch in ((3, 16, 16), (1, 16, 16)):  # at once, and slice by slice
        found = label_tiles(lambda part: scores[(slice(None), *part)], (3, 16, 16), patch=patch, classes=5)
        np.testing.assert_array_equal(found, scores.numpy().argmax(0))
