"""Learns to outline whatever is in a box or under points, from label maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from medfm.data.batches import Batches
from medfm.data.things import Thing, clicked, filled, things_of
from medfm.data.volumes import both_volumes
from medfm.grid import Grid, GridPrepare
from medfm.image import augment
from medfm.metrics import dice
from medfm.nn.frames import cut, frame_of, frame_to_picture, maps_of
from medfm.objectives.groups import encoder_slower
from medfm.prompter import Prompter, box_of, frames_around

__all__ = ["Prompted"]


class Prompted(nn.Module):
    """Trains a `Prompter` on every label of every slice; names play no part.

    The loss is Dice plus cross-entropy in the frame (MedSAM), and the squared error of the expected overlap (SAM) with
    the whole thing, also with what the frame cuts off: so that looking too closely is known for what it is.

    Args:
        model: `encoder` and `head` nodes. data: `sets`, a list of what `medfm.data.volumes.both_volumes` takes; `most`
            things of each may be given, evenly taken.
        prepare: fields of `GridPrepare`. batch: things a step. repeats: of each thing in a pass.
        points: share of the prompts that are points without a box; half as many again have both.
        jitter: of the box's sides, as a share of its size. least: pixels of a thing. checked: held-out things of each
            set looked at after a pass.
    """

    def __init__(
        self, *, model: dict[str, Any], data: dict[str, Any], prepare: dict[str, Any], batch: int = 16,
        repeats: int = 3, points: float = 0.3, jitter: float = 0.06, least: int = 16, checked: int = 20, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        ready = GridPrepare.from_dict(prepare)
        self.things: list[Thing] = []
        self.held: dict[str, list[Thing]] = {}
        counts: dict[str, dict[str, int]] = {}
        for node in data["sets"]:
            given = dict(node)
            most = given.pop("most", 0)
            train, held, labels = both_volumes(given, ready, seed=seed)
            path = Path(str(node["train"]))
            name = path.parent.name if path.suffix == ".jsonl" else path.name
            self.held[name] = things_of(held, labels, least=least)
            found = things_of(train, labels, least=least)
            self.things += _evenly(found, most or len(found))
            counts[name] = {"scans": len(train), "things": min(most or len(found), len(found))}
        patients = sorted({thing.case.patient for things in self.held.values() for thing in things})
        about = {"data": list(counts), "trained on": counts, "held out": patients}
        self.network = Prompter(encoder=model["encoder"], head=model.get("head"), prepare=prepare, about=about)
        self.points, self.jitter, self.checked = points, jitter, checked
        self.batches = Batches([0] * len(self.things) * repeats, batch, seed=seed)

    def collate(self, indices: list[int]) -> dict[str, Tensor]:
        """picture and prompt (B, 3, s, s), target (B, 1, s, s), and whole (B,), the thing's area in cells."""
        generator = self.batches.generator(indices)
        rows = [self._frame(self.things[number % len(self.things)], generator) for number in indices]
        pictures, prompts, targets, whole = (torch.cat(part) for part in zip(*rows, strict=True))
        seen = augment.contrast(pictures[:, :, None], generator)[:, :, 0]
        return {"picture": seen, "prompt": prompts, "target": targets, "whole": whole}

    def _frame(self, thing: Thing, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        def draw(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator) * 2 - 1

        mask, size = thing.mask, self.network.head.size
        kind = float(torch.rand((), generator=generator))
        only, both = kind < self.points, kind > 1 - self.points / 2
        around = torch.tensor([box_of(mask)], dtype=torch.float32)
        if only and torch.rand((), generator=generator) < 0.6:  # the first look around a click
            places = np.argwhere(mask)
            pick = places[int(torch.randint(len(places), (), generator=generator))]
            click = torch.from_numpy((pick[::-1] + 0.5) / mask.shape[::-1]).float()[None]
            frame = frames_around(click, [float(0.2 ** torch.rand((), generator=generator))])
        else:
            loose = (1.8 if only else 1.5) * float(torch.exp(0.2 * draw(1)[0]))
            sides = (around[:, 2:] - around[:, :2]).repeat(1, 2)
            frame = frame_of(around + self.jitter * draw(1, 4) * sides, margin=loose)
        placed = _turned(frame_to_picture(frame), mask.shape, generator)
        picture = cut(thing.case.x[:, thing.slice].float(), placed, size)
        target = (cut(torch.from_numpy(mask)[None].float(), placed, size) > 0.5).float()
        inside = target[0, 0].numpy() > 0
        drawn: Tensor | None = None
        if not only and (seen := box_of(inside)) is not None:
            exact = torch.tensor([seen], dtype=torch.float32)
            sides = (exact[:, 2:] - exact[:, :2]).repeat(1, 2)
            drawn = exact + self.jitter * draw(1, 4) * sides
        marks = self._marks(inside, generator) if only or both else torch.zeros(0, 3)
        prompt = maps_of(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), drawn, [marks], size)
        pixels = torch.linalg.det(placed[:, :, :2]).abs() * mask.size / size**2  # of a cell
        return picture, prompt, target, float(mask.sum()) / pixels

    def _marks(self, inside: NDArray[np.bool_], generator: torch.Generator) -> Tensor:
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

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        logits, quality = self.network(batch["picture"], batch["prompt"])
        target = batch["target"]
        p = logits.sigmoid()
        axes = (1, 2, 3)
        overlap = (p * target).sum(axes)
        soft = 1 - (2 * overlap + 1) / (p.sum(axes) + target.sum(axes) + 1)
        hard = (logits > 0).float()
        both, whole = (hard * target).sum(axes), torch.maximum(batch["whole"], target.sum(axes))
        iou = both / (hard.sum(axes) + whole - both).clamp(min=1)
        entropy = F.binary_cross_entropy_with_logits(logits, target)
        loss = soft.mean() + entropy + 0.5 * F.mse_loss(quality, iou.detach())
        return {"loss": loss, "iou": iou.mean().detach()}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Mean Dice of the box's mask ("score" over the sets), of the filled box, and of one click, a set each."""
        entry: dict[str, float] = {}
        for name, things in self.held.items():
            rows = []
            for thing in _evenly(things, self.checked):
                mask, index = thing.mask, thing.slice
                grid = Grid.of(thing.case.x, thing.case.spacing, self.network.preparation)
                by_box = self.network.draw(grid, index, box=box_of(mask)).probability > 0.5
                by_click = self.network.draw(grid, index, points=[(*clicked(mask), 1)]).probability > 0.5
                rows.append([dice(found, mask) for found in (by_box, filled(mask), by_click)])
            means = np.mean(rows, 0).tolist()
            entry |= dict(zip((f"{name} box", f"{name} filled", f"{name} click"), means, strict=True))
        boxes = [value for key, value in entry.items() if key.endswith(" box")]
        return {"score": float(np.mean(boxes)), **entry}

    def parameter_groups(self, rate: float) -> list[dict[str, Any]]:
        """A trained encoder learns at a third of the rate of what starts from nothing."""
        return encoder_slower(self, self.network.encoder, rate)

    def save(self, folder: Path) -> None:
        """A folder for `medfm.prompter.load_prompter`."""
        self.network.save(folder)


def _evenly(things: list[Thing], count: int) -> list[Thing]:
    return [things[int(i)] for i in np.linspace(0, len(things) - 1, min(count, len(things)))]


def _turned(placed: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A frame (1, 2, 3) turned, stretched and perhaps mirrored around its middle; sides have no names here."""
    angle, zoom, *flips = (torch.rand(4, generator=generator) * 2 - 1).tolist()
    turn = torch.tensor([[np.cos(0.4 * angle), -np.sin(0.4 * angle)], [np.sin(0.4 * angle), np.cos(0.4 * angle)]])
    sides = torch.tensor(shape[::-1], dtype=torch.float32)  # pixels are square, shares of the sides need not be
    turn = turn.float() * (sides[None] / sides[:, None]) * (1 + 0.1 * zoom)
    mirror = torch.tensor([1.0 if flip > 0 else -1.0 for flip in flips])
    return torch.cat([turn @ (placed[:, :, :2] * mirror), placed[:, :, 2:]], 2)
