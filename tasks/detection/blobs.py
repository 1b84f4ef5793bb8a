"""The trivial detector beside a learned one: bright blobs by the Laplacian of a Gaussian, tuned on the training scans.

    python tasks/detection/blobs.py DIR/train.jsonl DIR/test.jsonl --output DIR/blobs

Prints and writes the same figures as `medfm evaluate detect`; of a few settings the one with the best CPM on the
training scans is measured on the others.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from medfm.data.boxes import BoxedScan, find_boxes
from medfm.evaluate.detect import box_figures
from medfm.image.boxes import grid_box
from medfm.scan import Scan

Boxes = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def blobs(scan: Scan, *, radii: list[float], ceiling: float, lungs: bool) -> Boxes:
    """Boxes around local maxima, over place and size, of the scale-normalised response; lungs: only inside of them."""
    spacing = np.array(scan.spacing[::-1])
    values = np.clip(scan.data[0].astype(np.float32), -1000, ceiling)
    stack = np.stack([-((r / 1.732) ** 2) * ndimage.gaussian_laplace(values, r / 1.732 / spacing) for r in radii])
    if lungs:
        numbered, _ = ndimage.label(scan.data[0] < -600)
        around = np.unique(numbered[:, [0, -1]])  # the air above the patient and below the table
        dark = ndimage.binary_closing((numbered > 0) & ~np.isin(numbered, around), iterations=6)
        stack[:, ~ndimage.binary_erosion(dark, iterations=1)] = 0
    peaks = (stack == ndimage.maximum_filter(stack, (len(radii), 5, 5, 5))) & (stack > 0)
    places = np.argwhere(peaks)
    scores = stack[peaks]
    best = np.argsort(-scores)[:100]
    places, scores = places[best], scores[best]
    half = np.array(radii)[places[:, 0], None] / spacing
    middle = places[:, 1:] + 0.5
    boxes = torch.from_numpy(np.concatenate([middle - half, middle + half], 1)).float()
    return boxes, torch.from_numpy(scores / 2000).float().clamp(0, 1), torch.zeros(len(boxes), dtype=torch.long)


def measured(scans: list[BoxedScan], resamples: int, **settings: Any) -> dict[str, Any]:
    """The figures of one setting on some scans."""
    found, drawn = [], []
    for boxed in scans:
        scan = Scan.read(boxed.image)
        found.append(blobs(scan, **settings))
        edges = torch.tensor([grid_box(scan, b, scan.data.shape[1:]) for b in boxed.boxes]).float().reshape(-1, 6)
        drawn.append((edges, torch.zeros(len(edges), dtype=torch.long)))
    return box_figures(found, drawn, ["nodule"], [s.patient for s in scans], resamples=resamples, seed=0)


def main() -> None:
    """Tune on the first data set, measure on the second."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("train", type=Path)
    words.add_argument("test", type=Path)
    words.add_argument("--output", type=Path, required=True)
    given = words.parse_args()
    train, test = (find_boxes(path).scans for path in (given.train, given.test))
    scales = ([3.0, 5.0, 8.0], [4.0, 6.0, 9.0], [2.5, 4.0, 6.0, 9.0])
    kinds = [
        {"radii": radii, "ceiling": ceiling, "lungs": inside}
        for radii, ceiling, inside in itertools.product(scales, (-200.0, 200.0), (True, False))
    ]
    chosen = max(kinds, key=lambda kind: measured(train[:4], 1, **kind)["cpm"]["value"])
    metrics = {**measured(test, 200, **chosen), "settings": chosen}
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    print(json.dumps({"cpm": metrics["cpm"], "ap50": metrics["ap50"], "settings": chosen}))


if __name__ == "__main__":
    main()
