"""What knowing where things usually lie is worth: the mean mask of the training part as the answer to every scan.

    python tasks/segmentation/mean_place.py SUNNYBROOK --model cine-lv --label "255=left ventricular blood pool"

For data sets whose scans are all of one shape. Writes nothing; prints the Dice on the patients that the model's folder
lists as held out, with its 95 % interval by patient.
"""

from __future__ import annotations

import argparse
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
    drawn = np.stack([read_labels(pair, found.labels)[1] for pair in rest])
    shares = np.stack([(drawn == value).mean(0) for value in range(len(found.labels) + 1)])
    guess = shares.argmax(0).astype(np.uint8)
    scores = []
    for pair in held:
        truth = read_labels(pair, found.labels)[1]
        scores.append(float(np.mean([dice(guess == value, truth == value) for value in np.unique(truth[truth > 0])])))
    figure = bootstrap_interval(scores, [pair.patient for pair in held])
    print(f"Dice of the mean place: {interval(asdict(figure))}, n = {figure.n}")


if __name__ == "__main__":
    main()
