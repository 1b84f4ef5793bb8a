"""What knowing where things usually lie is worth: the mean mask of the training part as the answer to every scan.

    python tasks/segmentation/mean_place.py SUNNYBROOK --model cine-lv --label "255=left ventricular blood pool"

Scans of different shapes are laid middle on middle. Writes nothing; prints the Dice on the patients that the model's
folder lists as held out, with its 95 % interval by patient.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from medfm.cli.segmenting import named_labels
from medfm.data.patients import of_held_patients
from medfm.data.volumes import find_pairs, read_labels
from medfm.evaluate.markdown import interval
from medfm.metrics import bootstrap_interval, dice
from medfm.segmenter import load_segmenter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--label", action="append", default=[], metavar="VALUE=NAME")
    given = parser.parse_args()
    found = find_pairs(given.data, labels=named_labels(given.label))
    held, rest = of_held_patients(found.pairs, load_segmenter(given.model).about)
    drawn = [read_labels(pair, found.labels)[1] for pair in rest]
    truths = [read_labels(pair, found.labels)[1] for pair in held]
    shape = [max(sizes) for sizes in zip(*(labels.shape for labels in [*drawn, *truths]), strict=True)]
    laid = np.stack([np.pad(labels, margins(labels.shape, shape)) for labels in drawn])
    shares = np.stack([(laid == value).mean(0) for value in range(len(found.labels) + 1)])
    mean = shares.argmax(0).astype(np.uint8)
    scores = []
    for truth in truths:
        starts = [before for before, _ in margins(truth.shape, shape)]
        guess = mean[tuple(slice(start, start + size) for start, size in zip(starts, truth.shape, strict=True))]
        scores.append(float(np.mean([dice(guess == value, truth == value) for value in np.unique(truth[truth > 0])])))
    figure = bootstrap_interval(scores, [pair.patient for pair in held])
    print(f"Dice of the mean place: {interval(asdict(figure))}, n = {figure.n}")


def margins(shape: Sequence[int], whole: Sequence[int]) -> list[tuple[int, int]]:
    """What a map of `shape` lacks before and after it, to lie in the middle of `whole`."""
    return [((n - size) // 2, n - size - (n - size) // 2) for size, n in zip(shape, whole, strict=True)]


if __name__ == "__main__":
    main()
