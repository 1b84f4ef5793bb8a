"""Lungs by their air: both sides by name, without the windpipe, the air around the patient and gas of the bowel."""

from __future__ import annotations

import numpy as np
import pytest

from medfm.assistant import Call, Conversation, run_tool
from medfm.predict import lungs
from medfm.predict.airspace import describe
from medfm.scan import Mask, Measurement, Scan


def chest(*, flipped: bool = False, joined: bool = False) -> tuple[Scan, np.ndarray]:
    """A CT at 4 x 4 x 5 mm and its true lungs: 1 left, 2 right, larger; `flipped`: columns run the other way."""
    d, h, w = np.mgrid[:48, :64, :80]
    values = np.full(d.shape, -1000, np.int16)
    values[((w - 40) / 36) ** 2 + ((h - 32) / 28) ** 2 < 1] = 30
    true = np.zeros(d.shape, np.uint8)
    for value, column, width in ((1, 22, 10), (2, 58, 12)):  # with x growing to the patient's right
        true[((w - column) / width) ** 2 + ((h - 32) / 18) ** 2 + ((d - 24) / 18) ** 2 < 1] = value
    values[true > 0] = -850
    values[(w - 58) ** 2 + (h - 32) ** 2 < 4] = 20  # a vessel through the right one
    tube = ((w - 40) ** 2 + (h - 32) ** 2 < 5) & (d > 24)  # the windpipe, and a bronchus from lung to lung
    values[tube | ((h == 32) & (d == 25) & (abs(w - 40) < 14) if joined else tube)] = -990
    values[(w - 40) ** 2 + (h - 20) ** 2 + (d - 4) ** 2 < 9] = -950  # gas
    affine = np.diag([4.0, 4.0, 5.0, 1.0])
    if flipped:
        values, true = values[..., ::-1].copy(), true[..., ::-1].copy()
        affine[0] = [-4.0, 0, 0, 79 * 4.0]
    shown = Scan.from_array(true, affine=affine, modality="CT")  # turned as the scan is
    return Scan.from_array(values, affine=affine, modality="CT", units="HU"), shown.data[0]


def overlap(mask: Mask, true: np.ndarray, value: int) -> float:
    one, two = mask.array == value, true == value
    return 2 * (one & two).sum() / (one.sum() + two.sum())


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("joined", [False, True])
def test_each_lung_is_found_on_its_side(flipped: bool, joined: bool) -> None:
    scan, true = chest(flipped=flipped, joined=joined)
    mask = lungs(scan)
    assert mask is not None and mask.labels == {1: "Left Lung", 2: "Right Lung"}
    assert min(overlap(mask, true, value) for value in mask.labels) > 0.95
    outside = (mask.array > 0) & (true == 0)
    assert outside.sum() < 20, "windpipe or gas was taken for lung"


def test_a_model_of_lungs_boxes_nothing_outside_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    import medfm
    from medfm.detector import Detector, Found

    model = Detector(
        encoder={"name": "conv", "channels": [4]}, head={"ndim": 3, "levels": [0], "sizes": [[4]], "width": 4},
        labels=["nodule"], prepare={}, patch=[16, 16, 16],
    )  # fmt: skip
    scan, true = chest()
    places = [(24, 32, 22), (24, 32, 40), (24, 32, 15)]  # in the left lung, between the lungs, near the outer wall
    assert [int(true[place]) for place in places] == [1, 0, 1]
    boxes = torch.tensor([[*(v - 2 for v in place), *(v + 2 for v in place)] for place in places]).float()
    found = Found(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.long))
    read = []
    monkeypatch.setattr(Detector, "find", lambda self, grid, least, part: read.append(part) or found)
    assert len(medfm.detect(model, scan)) == 3
    model.settings["about"]["place"] = "lungs"
    assert [box.score for box in medfm.detect(model, scan)] == pytest.approx([0.9, 0.7])
    edges = [(int(v.min()), int(v.max()) + 1) for v in true.nonzero()]
    wanted = [slice(max(0, a - 4), min(n, b + 4)) for (a, b), n in zip(edges, true.shape, strict=True)]
    assert read[0] is None and list(read[1]) == wanted  # the lungs and a quarter of a patch around them
    air = Scan.from_array(np.full((8, 40, 40), 30, np.int16), affine=scan.affine, modality="CT", units="HU")
    assert medfm.detect(model, air) == []


def test_one_lung_alone_knows_its_side() -> None:
    scan, true = chest()
    scan.data[0][true == 2] = 30
    mask = lungs(scan)
    assert mask is not None and set(np.unique(mask.array)) == {0, 1}


def test_without_lungs_or_units_there_is_nothing() -> None:
    scan, true = chest()
    assert lungs(Scan.from_array(scan.data, affine=scan.affine, modality="MR")) is None
    scan.data[0][true > 0] = 30
    assert lungs(scan) is None


def test_a_conversation_outlines_and_measures_them() -> None:
    from types import SimpleNamespace

    talk, true = Conversation("test"), chest()[1]
    talk.open(chest()[0])
    blind = SimpleNamespace(vision=None, name="blind")
    *_, both = run_tool(talk, Call("segment", {"structure": "lungs"}), blind)  # type: ignore[arg-type]
    assert {item.label for item in both.evidence} == {"Left Lung", "Right Lung"}
    assert not both.abstained and "No model" in (both.note or "")
    *_, one = run_tool(talk, Call("measure", {"structure": "left lung"}), blind)  # type: ignore[arg-type]
    assert [item.label for item in one.evidence] == ["Left Lung"]
    assert abs(float(one.evidence[0].number.split()[0]) / ((true == 1).sum() * 0.08) - 1) < 0.05


def test_a_report_has_the_air_of_each_lung_and_its_outline() -> None:
    scan, true = chest()
    (said,) = describe(scan)
    ml = {f.side: f.evidence[0].value for f in said.findings if isinstance(f.evidence[0], Measurement)}
    voxel = 4 * 4 * 5 / 1000
    assert ml == pytest.approx({"left": (true == 1).sum() * voxel, "right": (true == 2).sum() * voxel}, rel=0.1)
    assert isinstance(said.evidence[0], Mask)
    assert not describe(Scan.from_array(np.full((12, 32, 32), 40.0), affine=np.eye(4), modality="CT", units="HU"))
