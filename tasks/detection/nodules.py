"""Plants nodules, and stubs of vessels that look like them, into the lungs of a chest CT: synthetic scans with boxes.

    python tasks/detection/nodules.py chest.nii.gz --output DIR [--train 24] [--test 12]

Writes DIR/train.jsonl, right halves of the scan, and DIR/test.jsonl, whole scans in whose left lung alone something is
planted. The halves are whole, with skin, clothes and table: a detector that saw nothing but lungs calls those nodules.
What is planted are bumpy balls of 5 to 20 mm, solid or ground glass; distractors are short bent rods and forks as thick
as nodules.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from scipy import ndimage

from medfm.scan import Scan


def lungs(scan: Scan) -> tuple[np.ndarray, int]:
    """Mask (D, H, W) of both lungs, the large dark parts that do not touch the border, and the column between them."""
    dark = ndimage.binary_opening(scan.data[0] < -600, iterations=2)
    numbered, count = ndimage.label(dark)
    border = {int(v) for axis in (1, 2) for end in (0, -1) for v in np.unique(np.take(numbered, end, axis))}
    sizes = np.bincount(numbered.ravel(), minlength=count + 1)
    inside = numbered * ~np.isin(numbered, [*border, 0])
    largest = max((n for n in range(1, count + 1) if n not in border), key=lambda n: sizes[n])
    both = inside > 0
    both &= sizes[inside] > sizes[largest] / 20
    return both, round(both.any((0, 1)).nonzero()[0].mean())


def plant(values: np.ndarray, room: np.ndarray, spacing: np.ndarray, random: np.random.Generator) -> list[list[float]]:
    """Change `values` in place: nodules and distractors at places of `room`; the nodules' boxes, edges in voxels."""
    places = np.argwhere(room)
    taken: list[np.ndarray] = []
    boxes = []
    kinds = ["nodule"] * int(random.integers(2, 6)) + ["rod"] * 4 + ["fork"] * 2
    for kind in kinds:
        for _ in range(50):
            place = places[random.integers(len(places))] + random.uniform(-0.5, 0.5, 3)
            if all(np.linalg.norm((place - other) * spacing) > 24 for other in taken):
                break
        else:
            continue
        taken.append(place)
        radius = random.uniform(2.5, 10) if kind == "nodule" else random.uniform(1.5, 4)
        reach = np.ceil((radius * 1.3 + (9 if kind != "nodule" else 1)) / spacing).astype(int)
        low = np.maximum(np.floor(place).astype(int) - reach, 0)
        high = np.minimum(np.floor(place).astype(int) + reach + 1, values.shape)
        grid = np.stack(np.meshgrid(*[np.arange(a, b) for a, b in zip(low, high, strict=True)], indexing="ij"), -1)
        away = (grid - place) * spacing
        far = (
            ball(away, radius, random)
            if kind == "nodule"
            else rods(away, radius, random, arms=1 if kind == "rod" else 3)
        )
        cover = np.clip(0.5 - far / 1.8, 0, 1)  # the share of a voxel inside, over its size
        density = random.uniform(-60, 60) if random.random() < 0.8 or kind != "nodule" else random.uniform(-500, -250)
        part = values[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        np.maximum(part, part * (1 - cover) + (density + random.normal(0, 15, part.shape)) * cover, out=part)
        if kind == "nodule":
            seen = np.argwhere(cover > 0.5) + low
            boxes.append([*seen.min(0), *(seen.max(0) + 1)])
    return boxes


def ball(away: np.ndarray, radius: float, random: np.random.Generator) -> np.ndarray:
    """Distance in mm from the surface of a bumpy ball."""
    length = np.linalg.norm(away, axis=-1)
    direction = away / np.maximum(length, 1e-3)[..., None]
    bumps = sum(np.cos(3 * direction @ random.normal(size=3) + random.uniform(0, 6)) for _ in range(4))
    return length - radius * (1 + 0.06 * bumps)


def rods(away: np.ndarray, radius: float, random: np.random.Generator, *, arms: int) -> np.ndarray:
    """Distance in mm from the surface of rods of 10 to 18 mm that meet in the middle, or of one through it."""
    far = np.full(away.shape[:-1], np.inf)
    for _ in range(arms):
        axis = random.normal(size=3)
        axis /= np.linalg.norm(axis)
        along = away @ axis
        length = random.uniform(5, 9) * (2 if arms > 1 else 1)
        kept = np.clip(along, 0 if arms > 1 else -length, length)
        far = np.minimum(far, np.linalg.norm(away - kept[..., None] * axis, axis=-1) - radius * 0.8)
    return far


def main() -> None:
    """Write both sides."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("scan", type=Path)
    words.add_argument("--output", type=Path, required=True)
    words.add_argument("--train", type=int, default=24)
    words.add_argument("--test", type=int, default=12)
    words.add_argument("--seed", type=int, default=0)
    given = words.parse_args()
    scan = Scan.read(given.scan)
    spacing = np.array(scan.spacing[::-1])
    given.output.mkdir(parents=True, exist_ok=True)
    both, middle = lungs(scan)
    room_of_all = ndimage.binary_erosion(both, iterations=3)
    left = room_of_all.copy()
    left[..., middle:] = False  # W grows to the patient's right
    right = slice(middle, None)
    parts = {"train": (right, room_of_all[..., right], given.train), "test": (slice(0, None), left, given.test)}
    for side, (part, room, count) in parts.items():
        place = scan.affine.copy()
        place[:3, 3] = scan.affine[:3] @ [part.start, 0, 0, 1]
        rows = []
        for number in range(count):
            random = np.random.default_rng([given.seed, side == "test", number])
            values = scan.data[0][..., part].astype(np.float32) + random.normal(0, 12, room.shape).astype(np.float32)
            boxes = plant(values, room, spacing, random) if number % 8 != 7 else []  # some have no nodule
            file = f"{side}{number:02d}.nii.gz"
            Scan.from_array(values.astype(np.int16)[None], affine=place, modality="CT", units="HU").write(
                given.output / file
            )
            corners = [
                [(place[:3] @ [*(np.array(edges)[::-1] - 0.5), 1]).tolist() for edges in (box[:3], box[3:])]
                for box in boxes
            ]
            named = [{"label": "nodule", "low": np.min(c, 0).tolist(), "high": np.max(c, 0).tolist()} for c in corners]
            rows.append({"image": file, "patient": f"{side}{number}", "boxes": named})
        (given.output / f"{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        print(f"{side}: {count} of {room.shape}, {sum(len(row['boxes']) for row in rows)} nodules")


if __name__ == "__main__":
    main()
