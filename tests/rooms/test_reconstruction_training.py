"""Training of reconstruction networks: which slices, what is measured of them, what counts in the loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_recipes import CASCADE, PLAIN, body
from torch import Tensor

from medfm.config import build
from medfm.data.slices import both_slices
from medfm.errors import ConfigError


def test_a_deep_stack_passes_on_what_it_is_given() -> None:
    """Of torch's own beginning a five-hundredth was left after seven layers, and so little was learned at first."""
    torch.manual_seed(0)
    for padded in (True, False):
        encoder = build("encoders", {"name": "stack", "channels": [32] * 7, "padded": padded})
        levels = encoder(torch.randn(2, 1, 1, 40, 40))
        assert levels[-1].square().mean() > 0.2


def test_a_centred_stack_begins_blind_to_the_mean() -> None:
    """Noise of 0.03 in a picture of 1: what the first layer gives has to be about the noise."""
    noise = 0.03 * torch.randn(1, 1, 1, 40, 40)
    for padded in (True, False):
        encoder = build("encoders", {"name": "stack", "channels": [16], "padded": padded, "centred": True})
        alone, in_picture = (encoder(x)[-1][..., 4:-4, 4:-4] for x in (noise, 1 + noise))
        assert torch.allclose(alone, in_picture, atol=1e-5) and alone.std() > 0.01
    with pytest.raises(ConfigError, match="centred"):
        build("encoders", {"name": "stack", "inputs": 2, "channels": [8], "complex": True, "centred": True})


def test_held_out_slices_lie_apart(tmp_path: Path) -> None:
    data = {"train": [str(body(tmp_path))], "hold": [0.4, 0.6], "gap": 10, "size": 32}
    train, held = both_slices(data, hounsfield=True)
    first, second = ({int(c.name.split(":")[1]) for c in side} for side in (train, held))
    gaps = [3.0 * abs(a - b) for a in first for b in second]
    assert min(gaps) >= 10 and held[0].pixel == pytest.approx(3 * 24 / 32)
    with pytest.raises(ConfigError, match="no key of data"):
        both_slices({**data, "split": 1}, hounsfield=True)


def test_the_objective_is_deterministic(tmp_path: Path) -> None:
    data = {"train": [str(body(tmp_path))], "size": 32, "every": 8}
    node = {
        "name": "reconstruction",
        "model": {k: CASCADE[k] for k in ("head", "encoder")},
        "physics": CASCADE["physics"],
    }
    losses = []
    for _ in range(2):
        torch.manual_seed(0)
        objective = build("objectives", node, data=data, seed=0).eval()
        losses.append(float(objective(objective.collate([0, 1]))["loss"].detach()))
    assert losses[0] == losses[1]


def test_slices_of_any_dose_count_alike_where_that_is_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("deepinv")
    data, losses = {"train": [str(body(tmp_path))], "size": 32, "every": 8}, {}
    for photons in (1e3, 1e5):
        for even in (False, True):
            torch.manual_seed(0)
            physics = {"name": "ct", "views": 30, "photons": photons, "truth": "dose"}
            node = {
                "name": "reconstruction", "even": even, "physics": physics,
                "model": {"encoder": PLAIN["encoder"], "head": PLAIN["head"]},
            }  # fmt: skip
            objective = build("objectives", node, data=data, seed=0).eval()
            for parameter in objective.network.head.refiner.out.parameters():
                torch.nn.init.zeros_(parameter)  # it gives the direct picture back
            losses[photons, even] = float(objective(objective.collate([0, 1]))["loss"].detach())
    assert losses[1e3, False] > 5 * losses[1e5, False]
    assert losses[1e3, True] == losses[1e5, True] == pytest.approx(1)


def test_each_step_has_another_dose_where_that_is_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("deepinv")
    data = {"train": [str(body(tmp_path))], "size": 32, "every": 8}
    model = {k: PLAIN[k] for k in ("encoder", "head")}
    noise: dict[float, list[float]] = {}
    for doses in (1.0, 16.0):
        node = {"name": "reconstruction", "doses": doses, "physics": PLAIN["physics"], "model": model}
        objective = build("objectives", node, data=data, seed=0).eval()
        for parameter in objective.network.head.refiner.out.parameters():
            torch.nn.init.zeros_(parameter)
        batch = objective.collate([0, 1])
        draws = [objective({**batch, "draw": torch.tensor(draw)})["mse"] for draw in range(8)]
        noise[doses] = [float(mse) for mse in draws]
    assert max(noise[1.0]) < 2 * min(noise[1.0]) and max(noise[16.0]) > 4 * min(noise[16.0])
    mri = {k: CASCADE[k] for k in ("encoder", "head")}
    with pytest.raises(ConfigError, match="doses: found 2"):
        build(
            "objectives",
            {"name": "reconstruction", "doses": 2, "physics": CASCADE["physics"], "model": mri},
            data=data, seed=0,
        )  # fmt: skip


def test_only_the_noise_of_a_ct_slice_is_new_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("deepinv")
    from medfm.physics.ct import Projection

    calls: list[int] = []
    project = Projection.A
    monkeypatch.setattr(Projection, "A", lambda self, x: calls.append(len(x)) or project(self, x))
    node = {"name": "reconstruction", "physics": PLAIN["physics"], "model": {k: PLAIN[k] for k in ("encoder", "head")}}
    objective = build("objectives", node, data={"train": [str(body(tmp_path))], "size": 32, "every": 8}, seed=0).eval()
    seen: list[Tensor] = []
    objective.network.head.register_forward_hook(lambda head, given, found: seen.append(given[0]))
    batch = objective.collate([0, 1])
    for draw, mirror in ((1, False), (2, False), (2, True)):
        objective({**batch, "draw": torch.tensor(draw), "mirror": torch.full((2, 2), mirror)})
    assert len(calls) == 2  # one of each slice
    first, second, turned = seen
    assert not torch.equal(first, second) and torch.equal(turned, second.flip(3, 4))


def test_half_precision_is_not_the_scanners(tmp_path: Path) -> None:
    pytest.importorskip("deepinv")
    node = {"name": "reconstruction", "physics": PLAIN["physics"], "model": {k: PLAIN[k] for k in ("encoder", "head")}}
    objective = build("objectives", node, data={"train": [str(body(tmp_path))], "size": 32, "every": 8}, seed=0).eval()
    seen: list[Tensor] = []
    objective.network.head.register_forward_hook(lambda head, given, found: seen.append(given[0]))
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            objective(objective.collate([0]))
    assert torch.equal(*seen)


def test_a_strip_of_columns_is_measured_as_in_the_whole_slice(tmp_path: Path) -> None:
    pytest.importorskip("deepinv")
    data = {"train": [str(body(tmp_path))], "size": 32, "every": 8}
    for consistency in ("exact", "none"):
        node = {
            "name": "reconstruction", "crops": 2, "patch": 12, "physics": CASCADE["physics"],
            "model": {"encoder": CASCADE["encoder"], "head": {**CASCADE["head"], "consistency": consistency}},
        }  # fmt: skip
        objective = build("objectives", node, data=data, seed=0).eval()
        seen: list[Any] = []
        objective.network.head.register_forward_hook(lambda head, given, found, seen=seen: seen.append(given))
        objective(objective.collate([0, 1]))
        start, y, operator, _ = seen[0]
        assert start.shape == y.shape == operator.mask.shape == (4, 1, 1, 32, 12)
        left = operator.start(y) - start
        assert left.abs().max() < 1e-5 * start.abs().max()  # what was not measured is not in the strip's start either
    with pytest.raises(ConfigError, match="whole rows"):
        build("objectives", {**node, "physics": {"name": "mri", "kind": "spokes"}}, data=data, seed=0)


@pytest.mark.weights
def test_likeness_sees_what_lies_below_air_and_tissue_that_is_too_dark() -> None:
    """Clamped at air, a generator hid the noise of lungs by making them darker than air; on one scale from air to bone
    it hid that of tissue by making it darker, which cost a three-hundredth of the noise."""
    from medfm.objectives.adversarial import Perceptual

    likeness = Perceptual(ct=True)
    air = torch.zeros(1, 1, 1, 64, 64)
    assert likeness(air - 0.1, air) > 1e-4
    body = torch.hypot(*torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")) < 0.8
    body = body.float()[None, None, None]
    noise = 0.03 * torch.randn(body.shape, generator=torch.Generator().manual_seed(0)) * body
    assert likeness(0.97 * body, body) > likeness(body + noise, body) / 150
    assert likeness(body + noise, body, body + noise) == pytest.approx(1.0)  # as a share of the direct picture's
    both = torch.cat([body + noise, body + 2 * noise]), torch.cat([body, body])
    assert likeness(*both, torch.cat([body + 2 * noise, body + 4 * noise])) < 0.7
