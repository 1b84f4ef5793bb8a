"""What two views of one patient (say MR and PET features) tell together: deep CCA and a multimodal Boltzmann machine.

    python tasks/classification/fusion.py [A.npy B.npy LABELS.npy] [--seeds 5]

A and B are (patients, features) of the same patients in the same order, LABELS 0 or 1 for each. Without files it makes
600 patients up, of whom both views show one cause of the disease and each another one. In each of the seeds a half of
the patients is learned from and the AUC of a linear classifier on the other half measured: on one view, on both side by
side, and on what DCCA (Andrew et al., ICML 2013) and the DBM (after Suk et al., NeuroImage 2014) make of both.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_auroc

from medfm.evaluate.markdown import print_table
from medfm.heads.fuse import DeepCCA, MultimodalDBM


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    if given.files and len(given.files) != 3:
        parser.error(f"found {len(given.files)} files; expected A.npy B.npy LABELS.npy, or none")
    scores: dict[str, list[float]] = {}
    for seed in range(given.seeds):
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        a, b, labels = read(given.files) if given.files else made_up(600, generator)
        order = torch.randperm(len(labels), generator=generator)
        learn, test = order[: len(order) // 2], order[len(order) // 2 :]
        for name, x in representations(a, b, learn, generator).items():
            scores.setdefault(name, []).append(auc(x, labels, learn, test))
    rows = [[name, f"{np.mean(v):.3f}", f"{min(v):.3f} to {max(v):.3f}"] for name, v in scores.items()]
    print_table(("from", "AUC", f"over {given.seeds} seeds"), rows)


def read(files: list[Path]) -> tuple[Tensor, Tensor, Tensor]:
    a, b, labels = (torch.from_numpy(np.load(file)) for file in files)
    if not len(a) == len(b) == len(labels):
        raise SystemExit(f"found {len(a)}, {len(b)} and {len(labels)} rows; expected the same patients in all three")
    return a.float(), b.float(), labels.long()


def made_up(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Two views (N, 20) of a cause that both show and one each of their own, mixed and bent; labels (N,)."""
    shared, own_a, own_b = torch.randn(3, count, generator=generator)
    views = []
    for own in (own_a, own_b):
        mixed = torch.stack([shared, own], 1) @ torch.randn(2, 20, generator=generator)
        views.append(torch.tanh(mixed) + 0.8 * torch.randn(count, 20, generator=generator))
    ill = shared + own_a + own_b + torch.randn(count, generator=generator) > 0
    return views[0], views[1], ill.long()


def representations(a: Tensor, b: Tensor, learn: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """What a classifier may look at, by name; what has weights learns from the patients of `learn` alone."""
    a, b = (standardised(view, learn) for view in (a, b))
    cca = DeepCCA([a.shape[1], b.shape[1]], joint=4)
    cca.fit(a[learn], b[learn], steps=60, ridge=0.1)
    machine = MultimodalDBM([a.shape[1], b.shape[1]])
    machine.fit([a[learn], b[learn]], generator=generator)
    with torch.no_grad():
        correlated = torch.cat(cca(a, b), 1)
    return {
        "the first view": a, "the second view": b, "both side by side": torch.cat([a, b], 1),
        "DCCA, both outputs": correlated, "DBM, joint layer": machine.joint([a, b])[0],
    }  # fmt: skip


def standardised(x: Tensor, learn: Tensor) -> Tensor:
    """Each feature with the mean 0 and the deviation 1 that it has among the patients of `learn`."""
    return (x - x[learn].mean(0)) / x[learn].std(0).clamp(min=1e-6)


def auc(x: Tensor, labels: Tensor, learn: Tensor, test: Tensor) -> float:
    """On the patients of `test`, of a logistic regression that learned from the others."""
    x = standardised(x, learn)
    linear = nn.Linear(x.shape[1], 1)
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=100)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.binary_cross_entropy_with_logits(linear(x[learn])[:, 0], labels[learn].float())
        total: Tensor = value + 0.01 * linear.weight.square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    with torch.no_grad():
        return float(binary_auroc(linear(x[test])[:, 0], labels[test]))


if __name__ == "__main__":
    main()
