"""Segmenter: encoder + decoder + how a scan is read for them, as one folder; load and save."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from medfm import assets, config
from medfm.errors import AdapterMismatch, ConfigError, ScanError
from medfm.grid import Grid, GridPrepare, mirrors
from medfm.nn.atlas import Atlas, Fit
from medfm.nn.tiles import Part, label_tiles
from medfm.stored import Stored, load_stored

__all__ = ["Segmenter", "grow", "join", "keep_largest", "load_segmenter", "meeting", "part_at_slice", "places"]


class Segmenter(Stored):
    """Names every voxel of a scan: softmax over the background and `labels`.

    `medfm.json` of its folder holds kind: "segment" and these arguments; `segment.safetensors` the weights in half
    precision, without those that a shared encoder brings along.

    Args:
        encoder, head: nodes; a head without a name is a `SegmentHead`.
        labels: names of the classes 1, 2, ...
        prepare: fields of `GridPrepare`.
        patch: (D, H, W) voxels that are read at once; larger scans are read in overlapping tiles.
        flips: axes ("D", "H", "W") along which a mirrored scan is as likely as the scan itself. mirrored: the scan is
            read mirrored too, unless who calls says otherwise.
        places: the encoder also reads where each voxel lies (see `places`), in three more inputs (CoordConv, Liu et al.
            2018).
        atlas: of the labels, which is fitted to each scan from where the network expects them (`medfm.nn.atlas`):
            `shape` and `spacing` (mm) of its grid, `around`, how many parts of what lies around it has, `tissues`,
            groups of labels that look alike, and `sees`, the mm at which the network looks; `prepare` has the mm of the
            result. A scan is then read whole.
        largest: labels of which only the largest connected part is kept, as validation chose (nnU-Net).
        meet: two labels, the one behind first, that people part at one coronal slice (see `part_at_slice`).
        members: folders beside `medfm.json` that hold further segmenters of the same labels and preparation: the
            probabilities are the mean over this one and them.
        about: what the model is and was trained on, for people; kept as it is.
    """

    kind, file = "segment", "segment.safetensors"

    def __init__(
        self, *, encoder: dict[str, Any], head: dict[str, Any], labels: list[str], prepare: dict[str, Any],
        patch: list[int], flips: str = "", mirrored: bool = False, places: bool = False,
        atlas: dict[str, Any] | None = None, largest: Sequence[str] = (), meet: Sequence[str] = (),
        members: Sequence[str] = (), about: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.settings: dict[str, Any] = {
            "encoder": encoder, "head": head, "labels": labels, "prepare": prepare, "patch": patch, "flips": flips,
            **({"mirrored": True} if mirrored else {}), **({"places": True} if places else {}),
            **({"atlas": atlas} if atlas else {}), **({"largest": list(largest)} if largest else {}),
            **({"meet": list(meet)} if meet else {}),
            **({"members": list(members)} if members else {}), "about": about or {},
        }  # fmt: skip
        self.labels, self.patch, self.flips = list(labels), (patch[0], patch[1], patch[2]), flips
        self.mirrored, self.places, self.largest = mirrored, places, list(largest)
        if unknown := {*largest, *meet} - set(labels):
            raise ConfigError(f"largest and meet: found {sorted(unknown)}, which are no labels of {labels}")
        self.meet = [self.labels.index(name) + 1 for name in meet]
        if atlas:
            self.register_buffer(
                "chances", torch.zeros(len(labels) + atlas["around"], *atlas["shape"], dtype=torch.uint8)
            )
            self.register_buffer("centres", torch.zeros(len(labels), 3))
        self.others: list[Segmenter] = []  # a plain list: their weights lie in folders of their own
        self.preparation = GridPrepare.from_dict(prepare)
        self.encoder = self.build_encoder(encoder)
        head = {"name": "segment", **head}
        named = {"labels": list(labels)} if head["name"] == "outline" else {}  # its classes are maps that have names
        levels = {"channels": self.encoder.channels, "strides": self.encoder.strides}
        self.head = config.build("heads", head, **levels, classes=len(labels) + 1, **named)
        self.packed = getattr(self.head, "packed", self.head.ndim == 3)
        for part in (self.encoder, self.head):
            if self.packed and getattr(part, "ndim", 2) == 3:  # a quarter less time for a step on CPU
                part.to(memory_format=torch.channels_last_3d)

    def forward(self, x: Tensor, spacing: Tensor) -> list[Tensor]:
        """x: (B, C, D, H, W); spacing: (B, 3) mm -> logits (B, 1 + K, D, H, W), coarser ones after them in training."""
        if self.packed:
            x = x.contiguous(memory_format=torch.channels_last_3d)
        logits: list[Tensor] = self.head(self.encoder(x, spacing), x.shape[2:])
        return logits

    @torch.no_grad()
    def label(self, grid: Grid, *, flip: bool | None = None) -> NDArray[np.uint8]:
        """The class of each voxel of `grid`, (D, H, W). flip: look at mirrored tiles too (None: see `mirrored`)."""
        mirrored = self.mirrored if flip is None else flip

        def predict(part: Part) -> Tensor:
            total = self._probabilities(grid, part, mirrored)
            for other in self.others:
                total += other._probabilities(grid, part, mirrored)
            return total

        if "atlas" in self.settings:
            atlas, fit = self.fitted(grid)
            found = atlas.label(grid.numbers()[0], grid.spacing, fit)
        else:
            found = label_tiles(predict, grid.shape, patch=self.patch, classes=len(self.labels) + 1)
        found = keep_largest(found, [self.labels.index(name) + 1 for name in self.largest])
        return part_at_slice(found, self.meet[0], self.meet[1]) if self.meet else found

    @torch.no_grad()
    def probabilities(self, grid: Grid) -> Tensor:
        """(1 + K, D, H, W), of the whole of `grid` at once: for scans about as large as those of training."""
        return self._probabilities(grid, (slice(None),) * 3, False)

    def misfit(self, sides: Sequence[float]) -> bool:
        """Whether a scan of these sides in mm holds too little of what an atlas is of, under half of it on any axis, or
        is so large, over three times of it, that it is no scan of that: its voxels at the atlas' mm fill no memory."""
        about = self.settings.get("atlas")
        return about is not None and not all(
            n / 2 <= s / about["spacing"] <= 3 * n for s, n in zip(sides, about["shape"], strict=True)
        )

    @torch.no_grad()
    def fitted(self, grid: Grid, *, thin: int = 1) -> tuple[Atlas, Fit]:
        """The model's atlas and how it was fitted to a scan (thin: see `Atlas.fit`).

        Raises ScanError: the scan holds less than half of it, or three times as much.
        """
        about = self.settings["atlas"]
        sides = [n * s for n, s in zip(grid.shape, grid.spacing, strict=True)]
        if self.misfit(sides):
            have, whole = (
                " x ".join(f"{s:.0f}" for s in mm) for mm in (sides, [n * about["spacing"] for n in about["shape"]])
            )
            raise ScanError(
                f"{self.name or 'the model'} fits an atlas of {whole} mm and needs half to three times of it on every "
                f"axis; this scan is {have} mm. `medfm models` lists other models for --task; --box outlines what you "
                "mark"
            )
        x, steps = grid.averaged(about["sees"])
        if self.places:
            x = torch.cat([x, places(x.shape[1:], steps)])
        given = (part[None].to(self.device) for part in (x, torch.tensor(steps)))
        expected = self(*given)[0].softmax(1)[0].cpu()
        atlas = self.atlas()
        middle, near = grid.averaged(about["spacing"])
        return atlas, atlas.fit(middle[0], near, atlas.starts(expected, steps), thin=thin)

    def atlas(self) -> Atlas:
        """The atlas that is fitted to scans, for a model that has one."""
        about = self.settings["atlas"]
        tissues = _numbers(self.labels, about["tissues"])
        chances, centres = (self.get_buffer(name).cpu() for name in ("chances", "centres"))
        return Atlas(chances, centres, tissues, spacing=about["spacing"])

    def _probabilities(self, grid: Grid, part: Part, flip: bool) -> Tensor:
        """(1 + K, d, h, w) of a part of `grid`, of this network alone."""
        spacing = torch.tensor(grid.spacing, dtype=torch.float32)[None].to(self.device)
        images = mirrors(self.flips if flip else "")
        x = grid.numbers(part)[None]
        if self.places:
            x = torch.cat([x, places(grid.shape, grid.spacing, part)[None]], 1)
        sizes = x.shape[2:]
        x = F.pad(x, self._margin(sizes), mode="replicate").to(self.device)
        total: Tensor | None = None
        for first in range(0, len(images), 2):  # two at once: small volumes alone are what PyTorch convolves slowly
            pair = images[first : first + 2]
            seen = torch.cat([x.flip(axes) for axes in pair]) if len(pair) > 1 else x
            each = self(seen, spacing.expand(len(seen), 3))[0].softmax(1)
            for p, axes in zip(each.split(1), pair, strict=True):
                p = p.flip(axes) if axes else p  # where nothing turns, that would copy a tile of all classes
                total = p if total is None else total.add_(p)
        assert total is not None
        total = total.div_(len(images)) if len(images) > 1 else total
        return total[0, :, : sizes[0], : sizes[1], : sizes[2]].cpu()

    def _margin(self, sizes: Sequence[int]) -> list[int]:
        """What a scan lacks: whole cells of the coarsest level, for on parts of them strided convolutions lie half a
        voxel off; more than one cell, for normalisation; and for a framed encoder the patch that it learned from."""
        framed = getattr(self.encoder, "framed", False)
        pads: list[int] = []
        for size, stride, patch in zip(sizes[::-1], self.encoder.strides[-1][::-1], self.patch[::-1], strict=True):
            lacking = patch - size if framed else max(2 * stride - size, -size % stride)
            pads += [0, max(0, lacking) if stride > 1 else 0]
        return pads


def _numbers(labels: Sequence[str], groups: Sequence[Sequence[str]]) -> Tensor:
    """(K,) the number of each label's group; labels of no group get one of their own."""
    known = {name: number for number, group in enumerate(groups) for name in group}
    alone = iter(range(len(groups), len(groups) + len(labels)))
    if unknown := set(known) - set(labels):
        raise ConfigError(f"atlas.tissues: found {sorted(unknown)}, which are no labels of {list(labels)}")
    return torch.tensor([known[name] if name in known else next(alone) for name in labels])


def keep_largest(labels: NDArray[np.uint8], values: Sequence[int]) -> NDArray[np.uint8]:
    """A label map (D, H, W) in which each of `values` is left in its largest part only, joined by faces."""
    from scipy import ndimage

    kept = labels.copy()
    for value in values:
        parts, count = ndimage.label(labels == value)
        if count > 1:
            kept[(parts > 0) & (parts != np.bincount(parts.ravel())[1:].argmax() + 1)] = 0
    return kept


def meeting(labels: NDArray[np.uint8], behind: int, front: int) -> int:
    """The slice along H of labels (D, H, W) from which on most of two are `front`; before it most are `behind`."""
    back, fore = ((labels == value).sum((0, 2)) for value in (behind, front))
    right = [back[:cut].sum() + fore[cut:].sum() for cut in range(labels.shape[1] + 1)]
    return int(np.argmax(right))


def part_at_slice(labels: NDArray[np.uint8], behind: int, front: int) -> NDArray[np.uint8]:
    """A label map (D, H, W) in which two labels meet exactly at the slice that parts them best (`meeting`)."""
    sides = np.where(np.arange(labels.shape[1]) < meeting(labels, behind, front), behind, front).astype(np.uint8)
    return np.where(np.isin(labels, (behind, front)), sides[:, None], labels)


def places(
    shape: Sequence[int], spacing: Sequence[float], part: Part = (slice(None), slice(None), slice(None))
) -> Tensor:
    """Where each voxel of a part of a grid lies from the grid's middle: (3, d, h, w) in decimetres along D, H, W."""
    lines = [((torch.arange(n) - (n - 1) / 2) * mm / 100)[cut] for n, mm, cut in zip(shape, spacing, part, strict=True)]
    return torch.stack(torch.meshgrid(*lines, indexing="ij"))


def grow(model: Segmenter, smaller: Segmenter) -> None:
    """Give `model` what `smaller` has learned at half its resolution (progressive growing, Karras et al. 2018).

    `model` has one stage more, the finest, of the same recipe otherwise (`again` in the encoder, `add` in the head):
    it starts with the output of the smaller one, interpolated.

    Raises AdapterMismatch where the two do not fit.
    """
    own, new = model.state_dict(), {}
    finest = len(smaller.head.stages)
    for name, tensor in smaller.state_dict().items():
        words = name.split(".")
        if words[:2] == ["encoder", "stages"] or words[:2] == ["head", "logits"]:
            words[2] = str(int(words[2]) + 1)
        new[".".join(words)] = tensor
    first = "encoder.stages.1.blocks.0.0.weight"
    if set(new) - set(own) or first not in new or len(model.head.stages) != finest + 1:
        raise AdapterMismatch(f"{smaller.name}: expected the same model with its finest stage left out")
    whole = torch.zeros_like(own[first])
    whole[:, -new[first].shape[1] :] = new[first]  # what comes from the new stage counts nothing yet
    new[first] = whole
    for part in ("weight", "bias"):
        new[f"head.logits.0.{part}"] = torch.zeros_like(own[f"head.logits.0.{part}"])
    if wrong := [n for n, t in new.items() if t.shape != own[n].shape]:
        raise AdapterMismatch(f"{smaller.name}: {wrong[0]} has another shape")
    model.load_state_dict(new, strict=False)


def load_segmenter(name: str | Path, *, device: str = "cpu") -> Segmenter:
    """Load a shipped segmentation model by name, or a folder that training left; see `medfm.stored.load_stored`."""
    model = load_stored(Segmenter, name, device=device)
    inside = assets.adapter_folder(name)
    model.others = [load_segmenter(inside / member, device=device) for member in model.settings.get("members", [])]
    return model


def join(members: Sequence[Path], output: Path, settings: Mapping[str, Any] | None = None, **about: Any) -> None:
    """Make `output` a model that means the probabilities of `members`: the first of them, the others in folders of it.

    settings, about: what its `medfm.json` says other than the first member's. Held out are patients whom none of them
    was trained on.

    Raises ConfigError: members that differ in labels or in what they read, or are several, or two folders of one name.
    """
    told = [json.loads((member / "medfm.json").read_text()) for member in members]
    names = [member.name for member in members[1:]]
    alike = all(t[key] == told[0][key] for t in told for key in ("labels", "prepare"))
    if len(set(names)) < len(names) or not alike or any("members" in t for t in told):
        raise ConfigError(
            f"found {[*map(str, members)]}; expected folders of other names, each of one network, of the same labels "
            "and `prepare`"
        )
    held = set.intersection(*(set(t["about"].get("held out", [])) for t in told))
    for member in members[1:]:
        if member.parent != output:
            (output / member.name).mkdir(parents=True)
            for file in ("medfm.json", Segmenter.file):
                shutil.copy(member / file, output / member.name / file)
    output.mkdir(parents=True, exist_ok=True)
    shutil.copy(members[0] / Segmenter.file, output / Segmenter.file)
    own = {"members": names, **(settings or {}), "about": {**told[0]["about"], "held out": sorted(held), **about}}
    (output / "medfm.json").write_text(json.dumps(told[0] | own, indent=1) + "\n")
