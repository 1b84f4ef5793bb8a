"""Where two labels meet: whether it is exactly at a slice, how far a model's slice is from people's, and what it costs.

    python tasks/segmentation/meeting.py Task04_Hippocampus --model hippocampus

Over the patients that the model's folder lists as held out; the shares of label maps are over the whole data set. The
first label lies in front: of every slice across the body's front and back (axis H) the one is sought that parts the two
best. Dice with the right slice is that of the model's outline of both, parted at the slice of the label map.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from medfm.data.patients import of_held_patients
from medfm.data.volumes import find_pairs, read_labels
from medfm.metrics import label_dice
from medfm.predict import segment
from medfm.segmenter import load_segmenter, meeting, part_at_slice


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="hippocampus")
    given = parser.parse_args()
    data, model = find_pairs(given.data), load_segmenter(given.model)
    maps = [read_labels(pair, data.labels)[1] for pair in data.pairs]
    exact = sum(mixed(labels) == 0 for labels in maps)
    print(f"{exact} of {len(maps)} label maps: {' and '.join(data.labels.values())} meet exactly at a slice")
    rows = []
    for pair in of_held_patients(data.pairs, model.about)[0]:
        scan, truth = read_labels(pair, data.labels)
        found = segment(model, scan).array
        right = np.where(np.arange(truth.shape[1])[:, None] < meeting(truth, 2, 1), 2, 1) * (found > 0)
        rows.append((meeting(found, 2, 1) - meeting(truth, 2, 1), score(found, truth), score(right, truth)))
    off, now, best = np.array(rows).T
    exact, mean = np.sum(off == 0), np.abs(off).mean()
    print(f"{len(rows)} held out: the model's slice is the right one {exact} times, off by {mean:.2f} on average")
    print(f"Dice {now.mean():.3f}, with the right slice {best.mean():.3f}")


def mixed(labels: NDArray) -> int:
    """Voxels on the wrong side of the slice that parts 2 from 1 best."""
    return int((part_at_slice(labels, 2, 1) != labels).sum())


def score(found: NDArray, truth: NDArray) -> float:
    return float(label_dice(torch.from_numpy(found.astype(np.uint8)), torch.from_numpy(truth), 2).mean())


if __name__ == "__main__":
    main()
