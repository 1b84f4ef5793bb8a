"""Rows of questions about scans, grouped by scan, with the boxes and masks that lie beside some of them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medfm.data.batches import Batches
from medfm.errors import DataError
from medfm.prepare import Prepare, Prepared
from medfm.scan import Scan

__all__ = [
    "Case", "both_sides", "question_batches", "read_cases", "split_cases", "stack_scans", "structure_target",
]  # fmt: skip


@dataclass
class Case:
    """One scan and all that is known about it; `prepared.x` is kept in half precision to hold a data set in memory."""

    path: Path
    prepared: Prepared
    questions: list[str]
    answers: list[str]
    modality: str
    facts: str = ""
    boxes: list[tuple[str, list[float]]] = field(default_factory=list)
    mask: Path | None = None


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


def read_cases(files: Sequence[str | Path], prepare: Prepare, *, limit: int | None = None) -> list[Case]:
    """Read rows {"image", "question", "answer", ...} of JSONL files, or of folders that `datasets` saved to disk.

    Image paths are relative to the file, or to the folder that holds the saved one.

    `boxes.json` ([{label, xywh}]) and `mask.png` beside an image are taken along.

    Raises:
        DataError: a row lacks a key or its image cannot be read; the message names the file and line.
    """
    from rich.progress import track

    cases = []
    for file in map(Path, files):
        rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for number, line in enumerate(_lines(file), 1):
            try:
                row = json.loads(line) if isinstance(line, str) else line
                question, answer = row["question"].strip(), str(row["answer"]).strip()
                rows[row["image"]].append({**row, "question": question, "answer": answer})
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise DataError(
                    f"{file}, line {number}: expected an object with image, question and answer ({error})"
                ) from error
        chosen = list(rows.items())[:limit]
        for image, about in track(chosen, description=f"reading {file.parent.name}/{file.name}", transient=True):
            path = file.parent / image
            prepared = prepare(Scan.read(path))
            small = replace(prepared, x=prepared.x.half())
            boxes = path.parent / "boxes.json"
            found = json.loads(boxes.read_text()) if boxes.exists() else []
            mask = path.parent / "mask.png"
            cases.append(
                Case(
                    path, small, [r["question"] for r in about], [r["answer"] for r in about],
                    str(about[0].get("modality") or about[0].get("organ") or ""), _facts(about),
                    [(b["label"], b["xywh"]) for b in found], mask if mask.exists() else None,
                )
            )  # fmt: skip
    if not cases:
        raise DataError(f"no rows found in {', '.join(map(str, files))}")
    return cases


def both_sides(data: dict[str, Any], prepare: Prepare, *, seed: int) -> tuple[list[Case], list[Case]]:
    """Cases to train on and held-out ones, of a recipe's `data`: `train`, and `validate` or the share to `hold`."""
    cases = read_cases(data["train"], prepare, limit=data.get("limit"))
    if "validate" in data:
        return cases, read_cases(data["validate"], prepare, limit=data.get("limit"))
    return split_cases(cases, share=data["hold"], seed=seed)


def split_cases(cases: list[Case], *, share: float, seed: int) -> tuple[list[Case], list[Case]]:
    """Training and held-out cases, split by image: no picture is on both sides."""
    order = np.random.default_rng(seed).permutation(len(cases))
    held = set(order[: round(share * len(cases))].tolist())
    return [c for i, c in enumerate(cases) if i not in held], [c for i, c in enumerate(cases) if i in held]


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


def _lines(file: Path) -> Iterable[str | dict[str, Any]]:
    """Lines of a JSONL file, or rows of a saved data set, which stay on disk (Arrow) until they are asked for."""
    if not file.is_dir():
        return file.read_text().splitlines()
    from datasets import load_from_disk

    try:
        rows: Iterable[dict[str, Any]] = load_from_disk(str(file))
    except FileNotFoundError as error:
        raise DataError(f"{file} is a folder, expected a JSONL file or what `Dataset.save_to_disk` wrote") from error
    return rows


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
