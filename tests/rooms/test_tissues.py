"""What an atlas's tissues explain of a scan stands apart from what they do not, in any contrast and any bias field."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medfm.nn.tissues import CHANNELS, Tissues

SHAPE = (24, 28, 26)
NAMES = ["left cerebral white matter", "right cerebral white matter", "left cerebral cortex", "right cerebral cortex"]
LIKELY = 6


def head() -> Tensor:
    """(4, D, H, W): white matter and cortex of both sides, one in each place."""
    d, h, w = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    far = (d**2 + h**2 + w**2).sqrt()
    white, cortex = far < 0.6, (far >= 0.6) & (far < 0.95)
    return torch.stack([white & (w < 0), white & (w > 0), cortex & (w < 0), cortex & (w > 0)]).float()


def lesion() -> Tensor:
    place = torch.zeros(SHAPE, dtype=torch.bool)
    place[11:14, 12:15, 15:18] = True
    return place


def scan(white: float, cortex: float, ill: float, *, bias: float) -> Tensor:
    image = torch.tensor([white, white, cortex, cortex]) @ head().flatten(1)
    image = image.view(SHAPE).masked_fill(lesion(), ill)
    noise = 0.02 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    return ((image + noise) * torch.linspace(-bias, bias, SHAPE[1]).exp()[:, None]).clamp(0, 1)


@pytest.mark.parametrize("bias", [0.0, 0.3])
@pytest.mark.parametrize("greys", [(0.7, 0.4, 0.1), (0.3, 0.6, 0.65), (0.5, 0.2, 0.72)])
def test_a_blob_of_another_grey_is_what_no_tissue_explains(greys: tuple[float, float, float], bias: float) -> None:
    x = Tissues(head(), NAMES).channels(scan(*greys, bias=bias))
    likely, inside = x[LIKELY], head()[:2].sum(0) > 0
    assert x.shape == (CHANNELS, *SHAPE) and x.isfinite().all()
    assert likely[lesion()].max() < likely[inside & ~lesion()].quantile(0.01)


def test_a_channel_holds_the_other_side() -> None:
    x = Tissues(head(), NAMES).channels(scan(0.7, 0.4, 0.1, bias=0.0))
    assert torch.equal(x[1], x[0].flip(2)) and not torch.equal(x[1], x[0])


def test_a_blank_scan_has_numbers() -> None:
    assert Tissues(head(), NAMES).channels(torch.zeros(SHAPE)).isfinite().all()
