"""Made-up bodies of 104 structures, as many as TotalSegmentator's paper has: can a recipe tell so many apart at once?

    python tasks/segmentation/bodies.py runs/bodies --count 40
    medfm train segmentation/totalsegmentator data.train=runs/bodies CHANGES --output runs/many
    medfm evaluate segment runs/bodies --model runs/many --held-out --output runs/figures/many

Balls and tubes lie apart in an ellipsoid of soft tissue, each with a brightness of its own; every body is the
same one turned, scaled and bent, and no brightness is of one structure alone: most are known by where they lie. Writes
CT in HU at 6 mm with its label maps, as an nnU-Net raw folder, and prints what takes the place of CHANGES.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medfm.image.patches import patch_grid, random_bend, random_map
from medfm.scan import Scan

STRUCTURES, SIDE, SPACING = 104, 48, 6.0
SHAPE = (SIDE, SIDE, SIDE)
HALF = (24.0, 23.0, 23.0)  # voxels, of the body's axes
ROOM = 6.8  # voxels from one structure to the next
CHANGES = (  # of the recipe, for bodies that are small and whole
    "data.labels=null", "data.hold=0.2", "objective.prepare.spacing=[6, 6, 6]", "objective.patch=[48, 48, 48]",
    "objective.tile=[48, 48, 48]", "objective.foreground=0", "objective.repeats=4", "train.budget=20",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write_bodies(given.output, count=given.count, seed=given.seed)
    print(f"{given.output}: {given.count} bodies of {STRUCTURES} structures")
    print(" ".join(f"'{change}'" for change in CHANGES))


def write_bodies(folder: Path, *, count: int, seed: int = 0) -> None:
    """An nnU-Net raw folder of `count` bodies."""
    generator = torch.Generator().manual_seed(seed)
    atlas, units = first_body(generator)
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    affine = np.diag([SPACING, SPACING, SPACING, 1.0])
    for number in range(1, count + 1):
        image, labels = another(atlas, units, generator)
        kept = {"affine": affine, "modality": "CT", "units": "HU"}
        Scan.from_array(image, **kept).write(folder / "imagesTr" / f"body_{number:03d}_0000.nii.gz")
        Scan.from_array(labels, affine=affine).write(folder / "labelsTr" / f"body_{number:03d}.nii.gz")
    table = {"background": 0, **{f"structure {n}": n for n in range(1, STRUCTURES + 1)}}
    about = {"channel_names": {"0": "CT"}, "labels": table, "numTraining": count, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(about, indent=1))


def first_body(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(2, D, H, W): the structures, the body around them; (1 + STRUCTURES,) HU of soft tissue and of each."""
    lines = torch.arange(SIDE, dtype=torch.float32) - (SIDE - 1) / 2
    place = torch.stack(torch.meshgrid(lines, lines, lines, indexing="ij"), -1)
    half = torch.tensor(HALF)
    steps = torch.arange(-2.5, 3) * ROOM
    cells = torch.cartesian_prod(steps, steps, steps)
    cells = cells[(cells / half).norm(dim=1).argsort()][:STRUCTURES]  # the innermost
    labels = torch.zeros(SHAPE)
    for value, middle in enumerate(cells[torch.randperm(STRUCTURES, generator=generator)], 1):
        draw = torch.rand(4, generator=generator)
        axis, reach, radius = F.normalize(torch.randn(3, generator=generator), dim=0), 0.0, 2.1 + 0.7 * float(draw[3])
        if value % 3 == 0:  # a tube
            reach, radius = 1.3, 1.9
        away = place - middle - (draw[:3] - 0.5) * 0.4
        along = (away @ axis).clamp(-reach, reach)
        labels[(away - along[..., None] * axis).norm(dim=-1) < radius] = value
    units = torch.cat([torch.tensor([-60.0]), torch.linspace(20, 320, 12).repeat(9)[:STRUCTURES]])
    return torch.stack([labels, ((place / half).norm(dim=-1) < 1).float()]), units


def another(atlas: Tensor, units: Tensor, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Image (D, H, W) in HU and labels of the same body in another shape."""
    spacing = torch.tensor([SPACING] * 3)
    matrix = random_map(SHAPE, spacing, generator, degrees=10, zoom=0.12)
    bend = random_bend(SHAPE, spacing, generator, mm=6.0, apart=70.0)
    middle = [(SIDE - 1) / 2 + float(torch.randn((), generator=generator)) for _ in SHAPE]
    grid = patch_grid(SHAPE, centre=middle, patch=SHAPE, matrix=matrix, bend=bend)
    labels, body = F.grid_sample(atlas[None], grid, mode="nearest", align_corners=False)[0]
    brightness = units + torch.randn(len(units), generator=generator) * 15
    image = torch.where(body > 0, brightness[labels.long()], torch.tensor(-1000.0))
    image = image + torch.randn(SHAPE, generator=generator) * 15
    return image.round().numpy().astype(np.int16), labels.numpy().astype(np.uint8)


if __name__ == "__main__":
    main()
