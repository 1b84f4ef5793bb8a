"""Learns to outline whatever is in a box or under points, from label maps, over the frozen shared encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm.data.batches import Batches
from medfm.data.volumes import VolumeCase, both_volumes
from medfm.grid import Grid, GridPrepare
from medfm.nn.frames import cut, frame_of, frame_to_picture, maps_of
from medfm.prompter import Prompter, box_of

__all__ = ["Prompted", "Thing", "things_of"]


class Thing(NamedTuple):
    """All pixels of one label in one slice of a case: mask (H, W) bool on the model's grid."""

    case: VolumeCase
    slice: int
    label: str
    mask: np.ndarray


def things_of(cases: list[VolumeCase], labels: list[str], *, least: int) -> list[Thing]:
    """Every label of every slice that has at least `least` pixels."""
    found = []
    for case in cases:
        for depth, drawn in enumerate(case.labels.numpy()):
            counts = np.bincount(drawn.ravel(), minlength=len(labels) + 1)
            found += [
                Thing(case, depth, labels[value - 1], drawn == value)
                for value in np.flatnonzero(counts >= least).tolist()
                if value
            ]
    return found


class Prompted(nn.Module):
    """Trains the head of a `Prompter`; each slice is encoded once, its frames are cut from the kept levels.

    The loss is Dice plus cross-entropy in the frame (MedSAM), and the squared error of the expected overlap (SAM).

    Args:
        model: `encoder` and `head` nodes. data: `sets`, a list of what `medfm.data.volumes.both_volumes` takes.
        prepare: fields of `GridPrepare`. batch: things a step. repeats: of each thing in a pass.
        points: share of the prompts that are points without a box; as many again have both.
        jitter: of the box's sides, as a share of its size. least: pixels of a thing. checked: held-out things of each
            set looked at after a pass.
    """

    def __init__(
        self, *, model: dict[str, Any], data: dict[str, Any], prepare: dict[str, Any], batch: int = 16,
        repeats: int = 1, points: float = 0.3, jitter: float = 0.06, least: int = 48, checked: int = 60, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        ready = GridPrepare.from_dict(prepare)
        self.things: list[Thing] = []
        self.held: dict[str, list[Thing]] = {}
        about: dict[str, Any] = {}
        for node in data["sets"]:
            train, held, labels = both_volumes(node, ready, seed=seed)
            name = Path(str(node["train"])).stem
            self.things += things_of(train, labels, least=least)
            self.held[name] = things_of(held, labels, least=least)
            about[name] = {"trained on": len(train), "held out": sorted({c.patient for c in held})}
        self.network = Prompter(encoder=model["encoder"], head=model.get("head"), prepare=prepare, about=about)
        self.points, self.jitter, self.checked = points, jitter, checked
        self._kept: dict[tuple[int, int], list[Tensor]] = {}
        self.batches = Batches([0] * len(self.things) * repeats, batch, seed=seed)

    def _levels(self, thing: Thing) -> list[Tensor]:
        """Half precision: a gigabyte for a thousand pictures."""
        key = (id(thing.case), thing.slice)
        if key not in self._kept:
            grid = Grid.of(thing.case.x, thing.case.spacing, self.network.preparation)
            self._kept[key] = [level.half() for level in self.network.look(grid, thing.slice)]
        return self._kept[key]

    def collate(self, indices: list[int]) -> dict[str, Any]:
        """cuts (a list of (B, C, s, s)), prompt (B, 3, s, s) and target (B, 1, s, s)."""
        generator = self.batches.generator(indices)
        rows = []
        for number in indices:
            thing = self.things[number % len(self.things)]
            rows.append(self._frame(thing, generator))
        cuts = [torch.cat(parts) for parts in zip(*(row[0] for row in rows), strict=True)]
        prompt, target = torch.cat([row[1] for row in rows]), torch.cat([row[2] for row in rows])
        return {"cuts": cuts, "prompt": prompt, "target": target}

    def _frame(self, thing: Thing, generator: torch.Generator) -> tuple[list[Tensor], Tensor, Tensor]:
        def draw(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator) * 2 - 1

        head, around = self.network.head, box_of(thing.mask)
        assert around is not None
        kind = float(torch.rand((), generator=generator))
        only, both = kind < self.points, kind > 1 - self.points / 2
        box = torch.tensor([around], dtype=torch.float32)
        sides = (box[:, 2:] - box[:, :2]).repeat(1, 2)
        if only and torch.rand((), generator=generator) < 0.5:
            frame = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
        else:
            loose = 1.8 if only else 1.5
            frame = frame_of(box + self.jitter * draw(1, 4) * sides, margin=loose * float(torch.exp(0.2 * draw(1)[0])))
        angle = 0.3 * draw(1)[0]
        turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(2, 2)
        placed = frame_to_picture(frame)
        middle = placed[:, :, 2:]
        shape = torch.tensor(thing.mask.shape[::-1], dtype=torch.float32)  # pixels are square, shares need not be
        turn = (turn * shape[None] / shape[:, None]) * (1 + 0.1 * draw(1)[0])
        placed = torch.cat([turn @ placed[:, :, :2], middle], 2)
        levels = [level.float() for level in self._levels(thing)]
        cuts = cut(levels, placed, head.sizes)
        bright = torch.exp(0.25 * draw(1)[0])
        cuts[0] = (cuts[0] * bright + 0.1 * draw(1)[0]).clamp(0, 1)
        target = (cut([torch.from_numpy(thing.mask)[None, None].float()], placed, [head.size])[0] > 0.5).float()
        inside = target[0, 0].numpy() > 0
        unit = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
        seen = box_of(inside)
        drawn: Tensor | None = None
        if not only and seen is not None:
            exact = torch.tensor([seen], dtype=torch.float32)
            sides = (exact[:, 2:] - exact[:, :2]).repeat(1, 2)
            drawn = exact + self.jitter * draw(1, 4) * sides
        marks = self._marks(inside, generator) if only or both else torch.zeros(0, 3)
        return cuts, maps_of(unit, drawn, [marks], head.size), target

    def _marks(self, inside: np.ndarray, generator: torch.Generator) -> Tensor:
        """One to eight places on the thing, up to two off it, as shares of the frame."""
        rows = []
        for value, most, least in ((1, 8, 1), (0, 2, 0)):
            places = np.argwhere(inside == bool(value))
            if len(places):
                count = int(torch.randint(least, most + 1, (), generator=generator))
                if value and torch.rand((), generator=generator) < 0.5:
                    count = 1
                for pick in torch.randint(len(places), (count,), generator=generator).tolist():
                    row, column = (places[pick] + 0.5) / inside.shape[0]
                    rows.append([column, row, float(value)])
        return torch.tensor(rows, dtype=torch.float32).view(-1, 3)

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        logits, quality = self.network(batch["cuts"], batch["prompt"])
        target = batch["target"]
        p = logits.sigmoid()
        axes = (1, 2, 3)
        overlap = (p * target).sum(axes)
        soft = 1 - (2 * overlap + 1) / (p.sum(axes) + target.sum(axes) + 1)
        hard = (logits > 0).float()
        both = (hard * target).sum(axes)
        iou = both / (hard.sum(axes) + target.sum(axes) - both).clamp(min=1)
        entropy = F.binary_cross_entropy_with_logits(logits, target)
        loss = soft.mean() + entropy + 0.5 * F.mse_loss(quality, iou.detach())
        return {"loss": loss, "iou": iou.mean().detach()}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Mean Dice of the box's mask ("score" over the sets), of the filled box, and of one point, a set each."""
        entry: dict[str, float] = {}
        for name, things in self.held.items():
            few = things[:: max(1, len(things) // self.checked)][: self.checked]
            rows = []
            for thing in few:
                grid = Grid.of(thing.case.x, thing.case.spacing, self.network.preparation)
                around = box_of(thing.mask)
                assert around is not None
                inside = np.argwhere(thing.mask)
                y, x = (inside[len(inside) // 2] + 0.5) / thing.mask.shape
                by_box = self.network.draw(grid, thing.slice, box=around).probability > 0.5
                by_point = self.network.draw(grid, thing.slice, points=[(x, y, 1)]).probability > 0.5
                rows.append([dice(found, thing.mask) for found in (by_box, filled(thing.mask), by_point)])
            means = np.mean(rows, 0).tolist()
            entry |= dict(zip((f"{name} box", f"{name} filled", f"{name} point"), means, strict=True))
        boxes = [value for key, value in entry.items() if key.endswith(" box")]
        return {"score": float(np.mean(boxes)), **entry}

    def parameter_groups(self, rate: float) -> list[dict[str, Any]]:
        """All that learns, at one rate."""
        return [{"params": [p for p in self.parameters() if p.requires_grad], "lr": rate}]

    def save(self, folder: Path) -> None:
        """A folder for `medfm.prompter.load_prompter`."""
        self.network.save(folder)


def filled(mask: np.ndarray) -> np.ndarray:
    """What a box alone would give: all of it."""
    full = np.zeros_like(mask)
    (rows,), (columns,) = np.nonzero(mask.any(1)), np.nonzero(mask.any(0))
    full[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return full


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    """2 |A and B| / (|A| + |B|)."""
    return float(2 * (found & truth).sum() / max(found.sum() + truth.sum(), 1))
