"""Pictures that no scanner took: what makes a CycleGAN and a diffusion model what they are, by their laws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_recipes import body

import medfm
from medfm.errors import ConfigError
from medfm.objectives.cycle import Cycle, gradient_consistency
from medfm.objectives.diffusion import Diffusion, likeness
from medfm.synthesizer import Sampler, Translator, load_synthesizer

UNET = {"channels": [8, 8], "attention_levels": [False, False], "num_res_blocks": 1, "norm_num_groups": 4}


@pytest.fixture(scope="module")
def cycle(tmp_path_factory: pytest.TempPathFactory) -> Cycle:
    torch.manual_seed(0)
    scan = str(body(tmp_path_factory.mktemp("body")))
    data = {
        "a": [scan],
        "b": [scan],
        "hounsfield": [True, True],
        "size": 32,
        "hold": [0.3, 0.7],
        "gap": 1,
        "paired": True,
    }
    return Cycle(model={"generator": {"width": 4, "blocks": 1}, "critic": {"channels": 4}}, data=data, checked=2)


@pytest.fixture
def sampler() -> Sampler:
    torch.manual_seed(0)
    return Sampler(unet=UNET, size=16).eval()


def test_gradient_consistency_by_its_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(2, 1, 64, 64, generator=generator) for _ in range(2))
    assert float(gradient_consistency(x, x)) == pytest.approx(0, abs=1e-5)
    assert float(gradient_consistency(x, 3 - 2 * x)) == pytest.approx(0, abs=1e-5)
    assert float(gradient_consistency(x, y)) > 0.95


def test_generators_that_change_nothing_have_no_cycle_error(cycle: Cycle) -> None:
    batch = cycle.collate([0, 1])
    there, back = cycle.network.there, cycle.network.back
    try:
        cycle.network.there, cycle.network.back = torch.nn.Identity(), torch.nn.Identity()  # type: ignore[assignment]
        assert float(cycle.eval()(batch)["cycle"]) == 0
    finally:
        cycle.network.there, cycle.network.back = there, back
    assert float(cycle(batch)["cycle"]) > 0.1


def test_both_sides_learn_from_other_slices_and_neither_from_held_out_ones(cycle: Cycle) -> None:
    first, second = ({c.name for c in part} for part in (cycle.first, cycle.second))
    held = {c.name for pair in cycle.held for c in pair}
    assert first and second and held and not first & second and not (first | second) & held


def test_a_generators_step_leaves_the_critics_alone_and_theirs_moves_them(cycle: Cycle) -> None:
    before = [p.clone() for p in cycle.critics.parameters()]
    cycle.train()(cycle.collate([0]))["loss"].backward()
    assert any(not torch.equal(a, b) for a, b in zip(before, cycle.critics.parameters(), strict=True))
    assert all(not p.requires_grad for p in cycle.critics.parameters())
    assert all(p.grad is not None for p in cycle.network.there.parameters())
    held = {id(p) for group in cycle.parameter_groups(1e-3) for p in group["params"]}
    assert not held & {id(p) for p in cycle.critics.parameters()}


def test_critics_are_shown_older_pictures_too(cycle: Cycle) -> None:
    cycle.pool, cycle.made = 2, ([], [])
    seen = [
        float(cycle._remembered(*[torch.full((1, 1, 4, 4), float(k))] * 2, draw=k)[0][0, 0, 0, 0]) for k in range(30)
    ]
    assert any(value < k for k, value in enumerate(seen)) and any(value == k for k, value in enumerate(seen[2:], 2))


def test_noise_keeps_the_variance_and_ends_as_noise(sampler: Sampler) -> None:
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(512, 1, 16, 16, generator=generator) for _ in range(2))
    for step in (0, 300, 999):
        noised = sampler.noised(x, noise, torch.full((512,), step))
        assert float(noised.var()) == pytest.approx(1, abs=0.02)
    assert torch.allclose(sampler.noised(x, noise, torch.zeros(512).long()), x, atol=0.06)
    assert torch.allclose(noised, noise, atol=0.05)


def test_who_knows_the_noise_gets_the_picture_back(sampler: Sampler) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 1, 16, 16, generator=generator) * 2 - 1
    a = sampler.schedule.alphas_cumprod

    def knows(noised: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        share = a[t].view(-1, 1, 1, 1)
        return (noised - share.sqrt() * x) / (1 - share).sqrt()

    sampler.forward = knows  # type: ignore[method-assign]
    assert torch.allclose(sampler.healed(x, generator, level=0.5, looks=20), x, atol=1e-3)


def test_its_steps_are_those_of_monai_and_repeat() -> None:
    torch.manual_seed(0)
    sampler = Sampler(unet=UNET, size=16, steps=20).eval()
    made = sampler.sample(2, torch.Generator().manual_seed(3), looks=20)
    assert torch.equal(made, sampler.sample(2, torch.Generator().manual_seed(3), looks=20))
    sampler.schedule.set_timesteps(20)
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        for t in sampler.schedule.timesteps[:3]:
            x, _ = sampler.schedule.step(sampler(x, torch.full((2,), int(t))), int(t), x)
    assert torch.allclose(_three_steps(sampler), x, atol=1e-4)


def _three_steps(sampler: Sampler) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    forward = sampler.forward

    def watched(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        if len(seen) == 4:
            raise StopIteration
        return forward(x, t)

    sampler.forward = watched  # type: ignore[method-assign]
    with pytest.raises(StopIteration):
        sampler.sample(2, torch.Generator().manual_seed(3), looks=20)
    return seen[3]


def test_likeness_tells_copies_from_noise() -> None:
    real = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    copied = likeness(real[:4].flip(-1), real[10:], real[:10])
    assert copied["made_least"] == pytest.approx(0, abs=1e-4) and copied["noise"] > 0.5


def test_training_learns_to_tell_the_noise(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = {"train": [str(body(tmp_path))], "hold": [0.3, 0.7], "gap": 1, "size": 16}
    objective = Diffusion(model={"unet": UNET}, data=data, hounsfield=True, batch=8, checked=2)
    descent = torch.optim.Adam(objective.parameters(), lr=3e-3)
    losses = []
    for epoch in range(8):
        objective.batches.epoch = epoch
        for indices in objective.batches:
            loss = objective(objective.collate(indices))["loss"]
            descent.zero_grad()
            loss.backward()
            descent.step()
            losses.append(float(loss.detach()))
    assert np.mean(losses[-8:]) < 0.6 * np.mean(losses[:3])


def test_models_are_the_same_after_saving_and_keep_the_scans_grid(
    cycle: Cycle, sampler: Sampler, tmp_path: Path
) -> None:
    scan = medfm.Scan.read(body(tmp_path))
    cycle.network.half().float().eval().save(tmp_path / "cycle")
    loaded = load_synthesizer(tmp_path / "cycle")
    assert isinstance(loaded, Translator)
    made, again = (medfm.synthesize(model, scan) for model in (cycle.network.eval(), loaded))
    assert np.array_equal(made.data, again.data)
    assert made.data.shape == scan.data.shape and np.array_equal(made.affine, scan.affine)
    assert made.units == "HU" and made.modality == "SYNTHETIC"
    sampler.half().float().save(tmp_path / "sampler")
    other = load_synthesizer(tmp_path / "sampler")
    assert medfm.synthesize(other, count=3).data.shape[-3:] == (3, 16, 16)
    with pytest.raises(ConfigError, match="give it a scan"):
        medfm.synthesize(loaded)
