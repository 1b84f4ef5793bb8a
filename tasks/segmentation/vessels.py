"""Measure vessels of the retina on the held-out people of CHASE_DB1: area under the ROC curve, and Dice.

    python tasks/segmentation/vessels.py CHASEDB1 --model runs/vessels --output runs/figures/vessels

Over the pixels of the field of view (brighter than a tenth of the range), with 95 % intervals by person. Beside the
model stand Frangi's filter (MICCAI 1998) on the green channel, which learned nothing, and the second observer, who has
a Dice with the first one and no curve.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import SimpleITK
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import binary_auroc

from medfm.data.patients import of_held_patients
from medfm.data.volumes import find_pairs, read_labels
from medfm.metrics import bootstrap_interval, dice
from medfm.scan import Scan
from medfm.segmenter import load_segmenter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    model, found = load_segmenter(given.model), find_pairs(given.data)
    pairs = of_held_patients(found.pairs, model.about)[0]
    rows: dict[str, list[float]] = {}
    for pair in pairs:
        scan, labels = read_labels(pair, found.labels)
        picture, truth = scan.data[:, 0], labels[0] > 0
        seen = picture.max(0) > 25
        vessel = model.probabilities(model.preparation(scan))[1, 0].numpy()
        second = Scan.read(pair.label.with_name(pair.label.name.replace("1st", "2nd"))).data[0, 0] > 0
        filtered = frangi(picture[1])
        figures = {
            "overall": area(vessel[seen], truth[seen]),
            "auc, Frangi": area(filtered[seen], truth[seen]),
            "dice": dice(vessel > 0.5, truth),
            "dice, second observer": dice(second, truth),
        }
        for name, value in figures.items():
            rows.setdefault(name, []).append(value)
    people = [pair.patient for pair in pairs]
    metrics = {
        "format": "medfm.vessels-metrics",
        "version": 1,
        "data": {"name": found.name, "pictures": len(pairs), "people": len(set(people))},
        **{name: bootstrap_interval(values, people).as_dict() for name, values in rows.items()},
    }
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    print(json.dumps(metrics, indent=1))


def frangi(green: NDArray[np.uint8]) -> NDArray[np.float32]:
    """How much each pixel (H, W) looks like a dark line of 1 to 7 pixels' deviation, the best of four scales."""
    image, best = SimpleITK.GetImageFromArray(green.astype(np.float32)), np.zeros(green.shape, np.float32)
    for sigma in (1, 3, 5, 7):
        smooth = SimpleITK.SmoothingRecursiveGaussian(image, sigma)
        line = SimpleITK.ObjectnessMeasure(smooth, objectDimension=1, brightObject=False)
        best = np.maximum(best, sigma**2 * SimpleITK.GetArrayFromImage(line))
    return best


def area(score: NDArray[np.floating], truth: NDArray[np.bool_]) -> float:
    return float(binary_auroc(torch.from_numpy(score.astype(np.float32)), torch.from_numpy(truth).long()))


if __name__ == "__main__":
    main()
