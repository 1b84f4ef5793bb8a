"""Prompter: shared encoder + prompt head as one folder; what lies in this box, or under these points?"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medfm import assets, config
from medfm.errors import AdapterMismatch, UnknownName
from medfm.grid import Grid, GridPrepare
from medfm.heads.prompt import PromptHead
from medfm.nn.frames import cut, frame_of, frame_to_picture, maps_of, put_back

__all__ = ["Drawn", "Prompter", "load_prompter"]

_REMEMBERED = 16  # slices whose pyramid is kept: a click, and those on its neighbours, wait for no encoder


class Drawn(NamedTuple):
    """probability (H, W) of each pixel of a slice, and the overlap (IoU) that the model expects of the mask."""

    probability: NDArray[np.float32]
    quality: float


class Prompter(nn.Module):
    """One thing in one slice, for a box (MedSAM, Ma et al. 2024), or for points or a scribble, which is our extension.

    `medfm.json` of its folder holds kind: "prompt" and these arguments; `prompt.safetensors` the weights in half
    precision, without those that the shared encoder brings along.

    Args:
        encoder: a node of configs. head: arguments of `PromptHead`.
        prepare: fields of `GridPrepare`; three channels.
        about: what the model is and was trained on, for people; kept as it is.
    """

    def __init__(
        self, *, encoder: dict[str, Any], prepare: dict[str, Any], head: dict[str, Any] | None = None,
        about: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.encoder = config.build("encoders", encoder)
        eye = getattr(self.encoder, "eye", "")
        self.settings: dict[str, Any] = {
            "encoder": {**encoder, "eye": eye} if eye else encoder, "head": head or {}, "prepare": prepare,
            "about": about or {},
        }  # fmt: skip
        self.preparation = GridPrepare.from_dict(prepare)
        self.head = PromptHead(self.encoder.channels, **(head or {}))
        self.name = ""
        self._seen: OrderedDict[bytes, list[Tensor]] = OrderedDict()

    @torch.no_grad()
    def look(self, grid: Grid, index: int) -> list[Tensor]:
        """The picture (1, 3, H, W) of slice `index` and its levels (1, C, h, w): encoded once, by what it shows."""
        x = grid.numbers((slice(index, index + 1), slice(None), slice(None)))
        key = hashlib.sha256(x.numpy().tobytes()).digest()
        if key not in self._seen:
            pyramid = self.encoder(x[None], torch.tensor(grid.spacing, dtype=torch.float32)[None])
            self._seen[key] = [x[None, :, 0], *(level[:, :, 0] for level in pyramid)]
            while len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
        self._seen.move_to_end(key)
        return self._seen[key]

    def forward(self, cuts: list[Tensor], prompt: Tensor) -> tuple[Tensor, Tensor]:
        """See `PromptHead`."""
        found: tuple[Tensor, Tensor] = self.head(cuts, prompt)
        return found

    @torch.inference_mode()
    def draw(
        self, grid: Grid, index: int, *, box: Sequence[float] | None = None, points: Sequence[Sequence[float]] = ()
    ) -> Drawn:
        """The thing that is meant, in slice `index` of `grid`.

        box: (left, top, right, bottom) as shares of the slice, 0 to 1. points: (x, y, 1 on the thing or 0 off it).
        Without a box the model looks at the whole slice first, then again at what it found there.

        Raises ValueError: neither a box nor a point on the thing, or a box without an inside.
        """
        if box is None and not any(p[2] for p in points):
            raise ValueError("give a box, or at least one point on the thing")
        if box is not None and not (box[0] < box[2] and box[1] < box[3]):
            raise ValueError(f"found the box {list(box)}; expected left < right and top < bottom, from 0 to 1")
        levels, marks = self.look(grid, index), torch.tensor([list(p) for p in points], dtype=torch.float32).view(-1, 3)
        given = None if box is None else torch.tensor([list(box)], dtype=torch.float32)
        if given is not None:
            return self._framed(levels, frame_of(given), given, marks)
        first = self._framed(levels, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), None, marks)
        around = box_of(first.probability > 0.5)
        if around is None:
            return first
        frame = frame_of(torch.tensor([around], dtype=torch.float32), margin=1.8)
        on = marks[marks[:, 2] > 0, :2]  # a frame without the click would be about something else
        frame = torch.cat([
            torch.minimum(frame[:, :2], on.amin(0) - 0.01), torch.maximum(frame[:, 2:], on.amax(0) + 0.01)
        ], 1)  # fmt: skip
        return self._framed(levels, frame, None, marks)

    def _framed(self, levels: list[Tensor], frame: Tensor, box: Tensor | None, marks: Tensor) -> Drawn:
        logits, quality = self(
            cut(levels, frame_to_picture(frame), self.head.sizes), maps_of(frame, box, [marks], self.head.size)
        )
        h, w = levels[0].shape[2:]
        return Drawn(put_back(logits, frame, (h, w))[0, 0].sigmoid().numpy(), float(quality))

    def save(self, folder: Path) -> None:
        """Write `medfm.json` and `prompt.safetensors`."""
        folder.mkdir(parents=True, exist_ok=True)
        kept = {f"encoder.{name}" for name in getattr(self.encoder, "kept", set)()}
        tensors = {n: t for n, t in self.state_dict().items() if n not in kept}
        halves = {n: (t.half() if t.is_floating_point() else t).contiguous() for n, t in tensors.items()}
        save_file(halves, folder / "prompt.safetensors")
        (folder / "medfm.json").write_text(json.dumps({"kind": "prompt", **self.settings}, indent=1) + "\n")


def box_of(mask: NDArray[np.bool_]) -> tuple[float, float, float, float] | None:
    """(left, top, right, bottom) around a mask (H, W) as shares of the picture; None for an empty one."""
    if not mask.any():
        return None
    (rows,), (columns,) = np.nonzero(mask.any(1)), np.nonzero(mask.any(0))
    h, w = mask.shape
    return float(columns[0] / w), float(rows[0] / h), float((columns[-1] + 1) / w), float((rows[-1] + 1) / h)


def load_prompter(name: str | Path = "prompt") -> Prompter:
    """Load a shipped prompted model by name, or a folder that training left.

    Raises:
        UnknownName: no such folder, or it holds a model of another kind.
        AdapterMismatch: weights and settings differ, or the shared encoder is not the one it was trained on.
    """
    folder = assets.adapter_folder(name)
    settings = json.loads((folder / "medfm.json").read_text())
    if (kind := settings.pop("kind", "answers")) != "prompt":
        raise UnknownName(f"{folder.name!r} is a model of kind {kind!r}; expected one of kind 'prompt'")
    model = Prompter(**settings)
    tensors = {n: t.float() for n, t in load_file(folder / "prompt.safetensors").items()}
    missing, unknown = model.load_state_dict(tensors, strict=False)
    kept = {f"encoder.{n}" for n in getattr(model.encoder, "kept", set)()}
    if unknown or set(missing) - kept:
        wrong = sorted([*unknown, *(set(missing) - kept)])
        raise AdapterMismatch(f"{folder.name}: medfm.json and prompt.safetensors do not fit each other: {wrong[:3]}")
    model.name = folder.name
    return model.eval()
