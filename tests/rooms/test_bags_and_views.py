"""Bags, fused views and trees of diseases: what each paper says must hold, on data made so that it can."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medfm.config import build
from medfm.data.taxonomy import partition, roll_up
from medfm.errors import DataError, ShapeError
from medfm.heads.bag import BagHead, smooth_svm
from medfm.heads.fuse import DeepCCA, MultimodalDBM, total_correlation


def _bags(count: int, generator: torch.Generator) -> list[tuple[torch.Tensor, int]]:
    """Bags of 200 to 300 instances in 24 dimensions, of which 4 % of a positive bag's are shifted."""
    bags = []
    for number in range(count):
        size = int(torch.randint(200, 300, (), generator=generator))
        x = torch.randn(size, 24, generator=generator)
        if number % 2:
            x[: size // 25, :3] += 2.5
        bags.append((x, number % 2))
    return bags


def test_bags_are_told_by_few_instances_and_the_attention_finds_them() -> None:
    from torchmetrics.functional.classification import binary_auroc

    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    train, test = _bags(60, generator), _bags(60, generator)
    head = BagHead([24], 2, hidden=32, inner=16, dropout=0.0)
    optimizer = torch.optim.Adam(head.parameters(), 3e-3)
    for _ in range(12):
        for x, label in train:
            optimizer.zero_grad()
            bag = head.read(x)
            loss = torch.nn.functional.cross_entropy(bag.logits[None], torch.tensor([label]))
            (0.7 * loss + 0.3 * head.instance_loss(bag, label)).backward()
            optimizer.step()
    head.eval()
    truth = torch.tensor([label for _, label in test])
    with torch.no_grad():
        seen = [head.read(x) for x, _ in test]
    auc = float(binary_auroc(torch.stack([b.logits[1] - b.logits[0] for b in seen]), truth))
    means = torch.stack([x[:, :3].mean() for x, _ in test])  # the best that pooling by the mean could do
    assert auc >= 0.9
    assert auc >= float(binary_auroc(means, truth))
    found = [float((b.attention[0].topk(8).indices < len(x) // 25).float().mean())
             for b, (x, label) in zip(seen, test, strict=True) if label]  # fmt: skip
    assert np.mean(found) >= 0.5
    np.testing.assert_allclose([float(b.attention.sum()) for b in seen], 1, atol=1e-5)


def test_a_bag_has_no_order_and_any_size() -> None:
    torch.manual_seed(0)
    head = BagHead([4, 6], 3, branches=True, hidden=8, inner=4).eval()
    x = torch.randn(20, 6)
    torch.testing.assert_close(head.read(x).logits, head.read(x.flip(0)).logits)
    assert head([torch.randn(2, 4, 1, 8, 8), torch.randn(2, 6, 2, 3, 3)]).shape == (2, 3)
    exclusive = BagHead([6], 3, branches=True, hidden=8, inner=4, exclusive=True).eval()
    assert exclusive.instance_loss(exclusive.read(x[:5]), 1).isfinite()


def test_smooth_svm_is_the_smooth_maximum_of_missed_margins() -> None:
    logits = torch.tensor([[2.0, 0.5], [0.0, 3.0]])
    by_hand = [np.log(np.exp(0) + np.exp(0.5 + 1 - 2)), np.log(np.exp(0 + 1 - 3) + np.exp(0))]
    assert float(smooth_svm(logits, torch.tensor([0, 1]))) == pytest.approx(np.mean(by_hand))


def test_total_correlation_is_that_of_the_textbook() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(500, 3, generator=generator, dtype=torch.float64)
    assert float(total_correlation(a, a @ torch.randn(3, 3, generator=generator, dtype=torch.float64), ridge=0)) == (
        pytest.approx(3, abs=1e-6)
    )  # a linear map loses nothing
    b = torch.randn(500, 1, generator=generator, dtype=torch.float64)
    one = total_correlation(a[:, :1] + b, b, ridge=0)
    assert float(one) == pytest.approx(abs(np.corrcoef((a[:, :1] + b)[:, 0], b[:, 0])[0, 1]), abs=1e-6)
    with pytest.raises(ShapeError, match="same number"):
        total_correlation(a, a[:3])


def test_deep_views_correlate_where_linear_ones_do_not() -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)

    def views(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        z = torch.rand(count, 2, generator=generator) * 2 - 1
        noise = 0.1 * torch.randn(count, 8, generator=generator)
        return torch.cat([z, z.sin()], 1) + noise[:, :4], torch.cat([z.square(), z.abs()], 1) + noise[:, 4:]

    train, test = views(1000), views(1000)
    model = DeepCCA([4, 4], hidden=(32,), joint=2)
    model.fit(*train, steps=150, rate=1e-2)
    with torch.no_grad():
        deep = float(total_correlation(*model(*test)))
    linear = float(total_correlation(*test))
    assert deep / 2 >= linear / 4 + 0.1


def test_a_machine_of_both_views_infers_the_one_that_was_not_taken() -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    mix = [torch.randn(3, 10, generator=generator) for _ in range(2)]

    def views(count: int) -> list[torch.Tensor]:
        z = torch.randn(count, 3, generator=generator).sign()  # what both views come from
        return [(z @ m + 0.5 * torch.randn(count, 10, generator=generator)) / 1.8 for m in mix]

    train, test = views(1500), views(500)
    machine = MultimodalDBM([10, 10], hidden=24, joint=24)
    before = machine.reconstruction(test)
    machine.fit(train, steps=500, rate=0.02, generator=generator)
    assert machine.reconstruction(test) < 0.8 * before
    inferred = machine.joint([test[0], None])[1][1]
    by_mean = float((test[1] - train[1].mean(0)).square().mean())
    assert float((test[1] - inferred).square().mean()) <= 0.8 * by_mean
    with pytest.raises(ShapeError, match="at least one"):
        machine.joint([None, None])


PARENTS = {"benign": "skin", "malignant": "skin", "nevus": "benign", "wart": "benign", "blue nevus": "nevus",
           "spitz nevus": "nevus", "melanoma": "malignant", "carcinoma": "malignant"}  # fmt: skip
COUNTS = {"blue nevus": 400, "spitz nevus": 900, "nevus": 50, "wart": 100, "melanoma": 300, "carcinoma": 200}


def test_training_classes_are_of_a_fair_size_and_cover_the_tree() -> None:
    found = partition(PARENTS, COUNTS, most=1000)
    assert found["melanoma"] == found["carcinoma"] == "malignant"
    assert {found[n] for n in ("blue nevus", "spitz nevus", "wart")} == {"blue nevus", "spitz nevus", "wart"}
    assert set(found) == {*PARENTS, "skin"}
    sizes: dict[str, int] = {}
    for node, name in found.items():
        sizes[name] = sizes.get(name, 0) + COUNTS.get(node, 0)
    assert max(sizes.values()) < 1000 and sum(sizes.values()) == sum(COUNTS.values())
    with pytest.raises(DataError, match="circle"):
        partition({"a": "b", "b": "a"}, {"a": 1}, most=10)


def test_probabilities_summed_up_the_tree() -> None:
    p = dict(
        zip(
            ["blue nevus", "spitz nevus", "wart", "malignant"], np.random.default_rng(0).dirichlet([1] * 4), strict=True
        )
    )
    up = roll_up(p, PARENTS, nodes=["skin", "benign", "malignant", "nevus"])
    assert up["skin"] == pytest.approx(1) and up["benign"] + up["malignant"] == pytest.approx(1)
    assert up["nevus"] == pytest.approx(p["blue nevus"] + p["spitz nevus"])
    assert up["malignant"] == pytest.approx(p["malignant"])


def test_inception_is_the_published_one() -> None:
    encoder = build("encoders", {"name": "inception"}).eval()
    count = sum(p.numel() for p in encoder.parameters()) + 2048 * 1000 + 1000
    assert count == pytest.approx(23.83e6, rel=1e-3)
    assert encoder(torch.rand(1, 3, 1, 80, 96))[0].shape[:3] == (1, 2048, 1)
