"""Which cases make a batch, and the loader that hands batches to the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

__all__ = ["Batches", "loader"]


class Batches(Sampler[list[int]]):
    """Full batches of case numbers, drawn anew each epoch, alike in size and never of two kinds.

    Alike means little padding; pictures and volumes do not share a batch (RadFM's rule), so the few that fill none at
    the end of an epoch wait for the next. The order depends on seed and epoch alone: a resumed run sees the same.
    """

    def __init__(self, sizes: Sequence[int], batch: int, *, seed: int, kinds: Sequence[Any] | None = None) -> None:
        """sizes: what "alike" compares, one number a case. kinds: cases of different kinds never share a batch."""
        self.sizes, self.seed, self.epoch = list(sizes), seed, 0
        kinds = kinds or [0] * len(self.sizes)
        self.kinds = [[i for i, k in enumerate(kinds) if k == kind] for kind in sorted(set(kinds))]
        self.batch = min(batch, max(map(len, self.kinds)))

    def __len__(self) -> int:
        return sum(len(kind) // self.batch for kind in self.kinds)

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng((self.seed, self.epoch))
        batches, chunk = [], 8 * self.batch
        for kind in self.kinds:
            order = random.permutation(kind)[: len(kind) // self.batch * self.batch].tolist()
            for start in range(0, len(order), chunk):
                alike = sorted(order[start : start + chunk], key=self.sizes.__getitem__)
                batches += [alike[i : i + self.batch] for i in range(0, len(alike), self.batch)]
        return iter([batches[i] for i in random.permutation(len(batches))])

    def generator(self, indices: Sequence[int]) -> torch.Generator:
        """What augments a batch: drawn from seed, epoch and the batch itself, whatever was drawn before."""
        return torch.Generator().manual_seed(hash((self.seed, self.epoch, *indices)) % 2**63)


def loader(
    batches: Batches, collate: Callable[[list[int]], dict[str, Tensor]], *, ahead: bool = False
) -> DataLoader[dict[str, Tensor]]:  # fmt: skip
    """Batches as `collate` makes them of case numbers. ahead: in a process of its own, while a step is computed.

    It has a generator of its own: else starting an epoch would draw from the global state, and a resumed run differ.
    """
    numbers: Any = range(len(batches.sizes))
    return DataLoader(
        numbers, batch_sampler=batches, collate_fn=collate, generator=torch.Generator(),
        num_workers=int(ahead),
    )  # fmt: skip
