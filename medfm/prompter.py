"""Prompter: shared encoder + prompt head as one folder; what lies in this box, or under these points?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medfm.grid import Grid, GridPrepare
from medfm.heads.prompt import PromptHead
from medfm.nn.frames import cut, frame_of, frame_to_picture, maps_of, put_back
from medfm.stored import Stored, load_stored

__all__ = ["Drawn", "Prompter", "box_of", "frames_around", "load_prompter"]

_SIDES = (1.0, 0.5, 0.25)  # of the slice: how far around a click is looked, as nobody said how large the thing is


class Drawn(NamedTuple):
    """probability (H, W) of each pixel of a slice, and the overlap (IoU) that the model expects of the mask."""

    probability: NDArray[np.float32]
    quality: float


class Prompter(Stored):
    """One thing in one slice, for a box (MedSAM, Ma et al. 2024), or for points or a scribble, which is our extension.

    What lies around the prompt is cut from the slice and encoded at one size (`medfm.nn.frames`), so that a small thing
    is seen as sharply as a large one: a hundredth of a second or two, where MedSAM encodes the whole slice at 1024.

    `medfm.json` of its folder holds kind: "prompt" and these arguments; `prompt.safetensors` the weights in half
    precision, without those that the shared encoder brings along.

    Args:
        encoder: a node of configs. head: arguments of `PromptHead`.
        prepare: fields of `GridPrepare`; three channels.
        about: what the model is and was trained on, for people; kept as it is.
    """

    kind, file = "prompt", "prompt.safetensors"

    def __init__(
        self, *, encoder: dict[str, Any], prepare: dict[str, Any], head: dict[str, Any] | None = None,
        about: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.settings = {"encoder": encoder, "head": head or {}, "prepare": prepare, "about": about or {}}
        self.encoder = self.build_encoder(encoder)
        self.preparation = GridPrepare.from_dict(prepare)
        self.head = PromptHead(self.encoder.channels, **(head or {}))

    def forward(self, picture: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor]:
        """picture and prompt: (B, 3, size, size) of frames. Returns what `PromptHead` does."""
        levels = [level[:, :, 0] for level in self.encoder(picture[:, :, None])]
        found: tuple[Tensor, Tensor] = self.head(picture, levels, prompt)
        return found

    @torch.inference_mode()
    def draw(
        self, grid: Grid, index: int, *, box: Sequence[float] | None = None, points: Sequence[Sequence[float]] = ()
    ) -> Drawn:
        """The thing that is meant, in slice `index` of `grid`.

        box: (left, top, right, bottom) as shares of the slice, 0 to 1. points: (x, y, 1 on the thing or 0 off it).
        Without a box the model looks near and far around the points, believes the look that it expects most of, and
        looks again at what it found there.

        Raises ValueError: neither a box nor a point on the thing, or a box without an inside.
        """
        if box is None and not any(p[2] for p in points):
            raise ValueError("give a box, or at least one point on the thing")
        if box is not None and not (box[0] < box[2] and box[1] < box[3]):
            raise ValueError(f"found the box {list(box)}; expected left < right and top < bottom, from 0 to 1")
        picture = grid.numbers((slice(index, index + 1), slice(None), slice(None)))[:, 0]
        marks = torch.tensor([list(p) for p in points], dtype=torch.float32).view(-1, 3)
        if box is not None:
            given = torch.tensor([list(box)], dtype=torch.float32)
            return self._framed(picture, frame_of(given), given, marks)
        on = marks[marks[:, 2] > 0, :2]
        first = self._framed(picture, frames_around(on, _SIDES), None, marks)
        around = box_of(first.probability > 0.5)
        if around is None:
            return first
        frame = frame_of(torch.tensor([around], dtype=torch.float32), margin=1.8)
        frame = torch.cat([
            torch.minimum(frame[:, :2], on.amin(0) - 0.01), torch.maximum(frame[:, 2:], on.amax(0) + 0.01)
        ], 1)  # fmt: skip  # a frame without the click would be about something else
        return self._framed(picture, frame, None, marks)

    def _framed(self, picture: Tensor, frames: Tensor, box: Tensor | None, marks: Tensor) -> Drawn:
        """What is found in the one of the frames (B, 4) that the model expects most of."""
        size = self.head.size
        seen = cut(picture, frame_to_picture(frames), size)
        prompt = maps_of(frames, box, [marks] * len(frames), size)
        logits, quality = (part.cpu() for part in self(seen.to(self.device), prompt.to(self.device)))
        best = int(quality.argmax())
        h, w = picture.shape[1:]
        back = put_back(logits[best : best + 1], frames[best : best + 1], (h, w))[0, 0]
        return Drawn(back.sigmoid().numpy(), float(quality[best]))


def frames_around(on: Tensor, sides: Sequence[float]) -> Tensor:
    """Frames (B, 4) within the slice around points (N, 2), one for each of `sides`, its share of the slice."""
    low, high = on.amin(0), on.amax(0)
    frames = []
    for side in sides:
        half = torch.maximum(torch.tensor(side), 1.3 * (high - low)).clamp(max=1) / 2
        middle = torch.minimum(torch.maximum((low + high) / 2, half), 1 - half)
        frames.append(torch.cat([middle - half, middle + half]))
    return torch.stack(frames)


def box_of(mask: NDArray[np.bool_]) -> tuple[float, float, float, float] | None:
    """(left, top, right, bottom) around a mask (H, W) as shares of the picture; None for an empty one."""
    if not mask.any():
        return None
    (rows,), (columns,) = np.nonzero(mask.any(1)), np.nonzero(mask.any(0))
    h, w = mask.shape
    return float(columns[0] / w), float(rows[0] / h), float((columns[-1] + 1) / w), float((rows[-1] + 1) / h)


def load_prompter(name: str | Path = "prompt", *, device: str = "cpu") -> Prompter:
    """Load a shipped prompted model by name, or a folder that training left; see `medfm.stored.load_stored`."""
    return load_stored(Prompter, name, device=device)
