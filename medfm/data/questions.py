"""Rows of questions about scans, grouped by scan, with the boxes and masks that lie beside some of them."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medfm.data.batches import Batches
from medfm.data.manifest import Raw, Row, parse, prepare_stack, raw_rows, read_scans
from medfm.errors import DataError, MedfmError
from medfm.prepare import Prepare, Prepared

if TYPE_CHECKING:
    from medfm.vision import Glimpse

__all__ = [
    "Case", "both_sides", "fold_of", "question_batches", "read_cases", "split_cases", "stack_scans", "structure_target",
]  # fmt: skip


@dataclass
class Case:
    """One scan and all that is known about it; `prepared.x` is kept in half precision to hold a data set in memory.

    views: what a frozen eye saw of the scan and of changed copies of it; `prepared.x` may
    then be on the device "meta", a shape without numbers. content: hash of the pixels.
    """

    path: Path
    prepared: Prepared
    questions: list[str]
    answers: list[str]
    modality: str
    facts: str = ""
    boxes: list[tuple[str, list[float]]] = field(default_factory=list)
    mask: Path | None = None
    patient: str = ""
    side: str = ""
    content: str = ""
    views: list[Glimpse] = field(default_factory=list)


def fold_of(case: Case, folds: int) -> int:
    """The fold a case belongs to, by its pixels: the same in every run and next to any other cases."""
    return int(hashlib.sha256(case.content.encode()).hexdigest()[:8], 16) % folds


def question_batches(cases: Sequence[Case], batch: int, *, seed: int) -> Batches:
    """Batches alike in their number of questions, pictures and volumes apart."""
    return Batches(
        [len(c.questions) for c in cases], batch, seed=seed, kinds=[c.prepared.x.shape[1] > 1 for c in cases]
    )


def stack_scans(cases: Sequence[Case]) -> tuple[Tensor, Tensor]:
    """x (B, 3, D, S, S) and spacing (B, 3) mm of scans; deeper volumes are averaged to the shallowest one's slices."""
    depth = min(c.prepared.x.shape[1] for c in cases)
    x = torch.stack([F.adaptive_avg_pool3d(c.prepared.x.float(), (depth, None, None)) for c in cases])
    thicker = [c.prepared.x.shape[1] / depth for c in cases]
    return x, torch.stack([c.prepared.spacing * torch.tensor([t, 1, 1]) for c, t in zip(cases, thicker, strict=True)])


def read_cases(
    sources: Sequence[str | Path], prepare: Prepare, *, limit: int | None = None, skip: Collection[str] = (),
    look: Callable[[Case], None] | None = None,
) -> list[Case]:  # fmt: skip
    """Read manifests (see data/manifest.py), one case an examination; a row of side "test" is never read.

    `boxes.json` ([{label, xywh}]) and `mask.png` beside an image are taken along. limit: examinations a source.
    skip: places (`Row.where`) of rows to leave out. look: called with each case as soon as it is read; may put
    something smaller in the place of its pixels, so that a stream larger than the memory can be read.

    Raises:
        DataError: a row lacks a key or its image cannot be read; the message names the file and line.
    """
    from rich.progress import track

    cases: list[Case] = []
    left_out = frozenset(skip)
    for source in sources:
        known: dict[str, Case] = {}
        about: dict[str, list[dict[str, Any]]] = defaultdict(list)
        rows = (_row(raw) for raw in raw_rows(source) if raw.where not in left_out)
        for row in track(rows, description=f"reading {Path(source).name}", transient=True):
            if row.side == "test":
                continue
            if row.key not in known:
                if limit is not None and len(known) >= limit:
                    continue
                known[row.key] = _case(row, prepare)
                if look is not None:
                    look(known[row.key])
            known[row.key].questions.append(row.question)
            known[row.key].answers.append(row.answer)
            about[row.key].append({**row.extra, "question": row.question, "answer": row.answer})
        for key, case in known.items():
            case.facts = _facts(about[key])
        cases += known.values()
    if not cases:
        raise DataError(f"no rows found in {', '.join(map(str, sources))}")
    return cases


def _row(raw: Raw) -> Row:
    try:
        return parse(raw)
    except DataError as error:
        raise DataError(f"{error}; correct the row, or leave it out by naming its place in data.skip") from error


def _case(row: Row, prepare: Prepare) -> Case:
    try:
        scans = read_scans(row)
    except MedfmError as error:
        raise DataError(f"{row.where}: {error}") from error
    prepared = prepare_stack(scans, prepare)
    facts = "; ".join(part for part in (prepared.facts, row.context) if part)
    path = row.images[0] if isinstance(row.images[0], Path) else Path(row.where)
    boxes, mask = path.parent / "boxes.json", path.parent / "mask.png"
    beside = json.loads(boxes.read_text()) if not row.boxes and boxes.exists() else []
    return Case(
        path=path, prepared=replace(prepared, x=prepared.x.half(), facts=facts), questions=[], answers=[],
        modality=str(row.extra.get("modality") or row.extra.get("organ") or ""),
        boxes=row.boxes or [(b["label"], b["xywh"]) for b in beside],
        mask=row.mask or (mask if mask.exists() else None), patient=row.patient, side=row.side,
        content=" ".join(scan.content_hash for scan in scans),
    )  # fmt: skip


def both_sides(
    data: dict[str, Any], prepare: Prepare, *, seed: int, look: Callable[[Case], None] | None = None
) -> tuple[list[Case], list[Case]]:
    """Cases to train on and held-out ones, of a recipe's `data`: `train`, and `validate` or the share to `hold`.

    Where the rows of `train` name their side themselves, that is followed. `limit`, `skip`: see `read_cases`.
    """
    options = {"limit": data.get("limit"), "skip": data.get("skip", ()), "look": look}
    cases = read_cases(data["train"], prepare, **options)
    if "validate" in data:
        return cases, read_cases(data["validate"], prepare, **options)
    if any(case.side == "validate" for case in cases):
        return [c for c in cases if c.side != "validate"], [c for c in cases if c.side == "validate"]
    return split_cases(cases, share=data["hold"], seed=seed)


def split_cases(cases: list[Case], *, share: float, seed: int) -> tuple[list[Case], list[Case]]:
    """Training and held-out cases: no patient and no picture is on both sides, whatever its file is called."""
    groups = _groups(cases)
    order = np.random.default_rng(seed).permutation(len(groups))
    held: set[int] = set()
    for number in order:
        if len(held) + len(groups[number]) <= round(share * len(cases)):
            held |= groups[number]
    return [c for i, c in enumerate(cases) if i not in held], [c for i, c in enumerate(cases) if i in held]


def _groups(cases: Sequence[Case]) -> list[set[int]]:
    """Numbers of cases that share a patient or the pixels, in the order of their first."""
    group = {number: {number} for number in range(len(cases))}
    first: dict[tuple[str, str], int] = {}
    for number, case in enumerate(cases):
        for shared in (("patient", case.patient), ("content", case.content)):
            other = first.setdefault(shared, number)
            if shared[1] and group[other] is not group[number]:
                merged = group[other] | group[number]
                group.update(dict.fromkeys(merged, merged))
    return list({id(members): members for members in group.values()}.values())


def structure_target(
    case: Case, labels: list[str], mask_values: dict[int, str], *, stride: int = 4
) -> tuple[Tensor, Tensor]:
    """Maps (K, S/stride, S/stride) in [0, 1] of the labelled structures, and (K,) presence.

    A structure with pixels in the mask gets them; one with a box only gets the ellipse inside its box.
    """
    size = case.prepared.x.shape[-1] // stride
    target = torch.zeros(len(labels), size, size)
    drawn = set()
    (top, left), scale = case.prepared.offset, case.prepared.scale / stride
    if case.mask is not None:
        from PIL import Image

        with Image.open(case.mask) as picture:
            values = torch.from_numpy(np.array(picture))
        for value in values.unique().tolist():
            if (label := mask_values.get(value)) in labels:
                plane = (values == value).float()[None, None]
                height, width = round(plane.shape[2] * scale), round(plane.shape[3] * scale)
                small = F.interpolate(plane, (height, width), mode="bilinear", antialias=True, align_corners=False)
                row, column = top // stride, left // stride
                place = target[labels.index(label), row : row + height, column : column + width]
                place.copy_(small[0, 0, : place.shape[0], : place.shape[1]])
                drawn.add(label)
    rows, columns = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    for label, (x, y, w, h) in case.boxes:
        if label in labels and label not in drawn and w > 0 and h > 0:
            cx, cy = (x + w / 2) * scale + left / stride, (y + h / 2) * scale + top / stride
            inside = ((columns - cx) / (w * scale / 2)) ** 2 + ((rows - cy) / (h * scale / 2)) ** 2 <= 1
            target[labels.index(label)] = torch.maximum(target[labels.index(label)], inside.float())
    return target, (target.flatten(1).amax(1) > 0.4).float()


_PARTS = {
    "chest": "chest", "abdomen": "abdomen", "abd": "abdomen", "brain": "head", "head": "head", "neck": "neck",
    "pelvic cavity": "pelvis",
}  # fmt: skip


def _facts(rows: list[dict[str, Any]]) -> str:
    """What a file header would say of this image, taken from its own rows: modality, plane and body part."""
    answers = [" ".join(str(r["answer"]).lower().split()) for r in rows]
    asked = zip(rows, answers, strict=True)
    part = next(
        (a for r, a in asked if "part of the body does this" in r["question"]), str(rows[0].get("organ", "")).lower()
    )
    known = [rows[0].get("modality"), next((p for p in answers if p.endswith(" plane")), None), _PARTS.get(part)]
    return ", ".join(k for k in known if k)
