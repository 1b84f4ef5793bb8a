"""Learning from scans without labels: Mean Teacher, pseudo-labels, URPC."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from small_recipes import labelled_volumes

from medfm import config
from medfm.config import load_recipe
from medfm.errors import DataError
from medfm.losses import pyramid_disagreement
from medfm.objectives.supervised import Supervised

SMALL = [
    "data.hold=0.34", "objective.patch=[8, 24, 24]", "objective.tile=[8, 24, 24]", "objective.batch=1",
    "objective.repeats=1", "objective.prepare={intensity: zscore}", "data.labels={1: ball, 2: core}",
    "objective.largest=[]", "objective.agree.patches=2", "objective.model.encoder.channels=[4, 8, 8]",
    "objective.model.encoder.convs=1", "objective.model.head={ndim: 2, convs: 1, deep: 1}",
]  # fmt: skip


def build(form: str, data: Path, *more: str) -> Supervised:
    recipe = load_recipe(
        "segmentation/mean-teacher", [*SMALL, f"data.train='{data}'", f"objective.agree.form={form}", *more]
    )
    torch.manual_seed(0)
    built: Supervised = config.build("objectives", recipe["objective"], data=recipe["data"], seed=0)
    return built.train()


@pytest.fixture(scope="module")
def balls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled_volumes(tmp_path_factory.mktemp("balls"), count=6)


def test_labels_that_the_share_leaves_out_are_never_opened(tmp_path: Path) -> None:
    data = labelled_volumes(tmp_path, count=6)
    opened = build("teacher", data, "data.share=0.5")
    used = {case.name for case in (*opened.cases, *opened.held)}
    for label in (data / "labelsTr").iterdir():
        if label.name.removesuffix(".nii.gz") not in used:
            label.write_bytes(b"not a label map")
    again = build("teacher", data, "data.share=0.5")
    assert len(again.others) == 2 and not any(case.labels.any() for case in again.others)
    assert not {case.patient for case in again.others} & {case.patient for case in (*again.cases, *again.held)}


def test_a_folder_of_scans_without_labels_is_learned_from(balls: Path, tmp_path: Path) -> None:
    other = labelled_volumes(tmp_path, count=3) / "imagesTr"
    learner = build("teacher", balls, "data.share=1.0", f"data.unlabelled='{other}'")
    assert len(learner.others) == 3
    assert learner.network.settings["about"]["trained on without labels"] == 3
    with pytest.raises(DataError, match="unlabelled"):
        build("teacher", balls, "data.share=1.0")


def test_the_teacher_is_the_moving_average_of_the_network_and_gets_no_gradient(balls: Path) -> None:
    learner = build("teacher", balls, "data.share=0.5")
    assert learner.agreement is not None and learner.agreement.teacher is not None
    teacher = learner.agreement.teacher
    weight = next(learner.network.parameters())
    expected = next(teacher.parameters()).clone()
    for step in range(3):
        with torch.no_grad():
            weight.add_(1.0)
        decay = min(1 - 1 / (step + 1), 0.99)
        expected = decay * expected + (1 - decay) * weight.detach()
        learner(learner.collate([0]))["loss"].backward()
        assert torch.allclose(next(teacher.parameters()), expected)
    assert all(p.grad is None for p in teacher.parameters())
    assert weight.grad is not None
    learned = {id(p) for group in learner.parameter_groups(1e-3) for p in group["params"]}
    assert learned == {id(p) for p in learner.network.parameters()}


def test_disagreement_comes_in_along_the_ramp(balls: Path) -> None:
    learner = build("teacher", balls, "data.share=0.5", "objective.agree.ramp=10", "objective.agree.weight=2.0")
    for step in range(12):
        parts = learner(learner.collate([0]))
        share = 2.0 * math.exp(-5 * (1 - min(1.0, step / 10)) ** 2)
        assert torch.allclose(parts["loss"], parts["labelled"] + share * parts["disagreement"])


@pytest.mark.parametrize("form", ["teacher", "pseudo", "pyramid"])
def test_patches_without_labels_teach_the_network(form: str, balls: Path) -> None:
    learner = build(form, balls, "data.share=0.5", "objective.agree.sure=0.4")
    parts = learner(learner.collate([0]))
    parts["disagreement"].backward()
    assert parts["disagreement"] > 0
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in learner.network.parameters())


def test_only_what_the_network_is_sure_of_becomes_a_label(balls: Path) -> None:
    learner = build("pseudo", balls, "data.share=0.5", "objective.agree.sure=1.0")
    assert learner(learner.collate([0]))["disagreement"] == 0


def test_levels_that_agree_cost_nothing_and_others_what_the_paper_says() -> None:
    level = torch.randn(1, 3, 2, 4, 4)
    assert pyramid_disagreement([level, level.clone()]) == pytest.approx(0, abs=1e-6)
    p = torch.tensor([0.9, 0.1]), torch.tensor([0.5, 0.5])
    mean = (p[0] + p[1]) / 2
    expected = 0.0
    for one in p:
        divergence = (mean * (mean / one).log()).sum()  # one voxel: its trust cancels from the weighted mean
        expected += float((mean - one).square().mean() + divergence) / 2
    logits = [one.log().view(1, 2, 1, 1, 1) for one in p]
    assert float(pyramid_disagreement(logits)) == pytest.approx(expected, rel=1e-5)
