"""Measure the coarse outlines that the eye of `default` draws by itself, without a segmentation model.

    python tasks/segmentation/eye.py slake/validate.jsonl --labels segmentation/organs --output runs/figures/eye

What `medfm evaluate segment` measures, on the labels of a recipe that the eye knows by the same names.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

import medfm
from medfm.config import load_recipe
from medfm.data.volumes import LabelledScans, find_pairs, read_labels
from medfm.evaluate.markdown import interval
from medfm.evaluate.overlap import agreement
from medfm.evaluate.segment import Record, written
from medfm.model import MedFM
from medfm.predict.outlining import outline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--labels", required=True, metavar="RECIPE")
    parser.add_argument("--partial", action="store_true", help="count a class where it is drawn only")
    parser.add_argument("--without", nargs="*", default=[], metavar="LABEL", help="labels of the recipe to leave out")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="of the longer side, instead of the eye's own")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    model = medfm.load("default")
    if given.size:
        model.preparation = replace(model.preparation, size=given.size)
    labels = load_recipe(given.labels)["data"]["labels"]
    found = find_pairs(given.data, labels={v: name for v, name in labels.items() if name not in given.without})
    metrics = written(
        list(records(model, found, partial=given.partial)), found, {"name": "default"}, given.output, 2000, 0, 1.0
    )
    print(f"Dice {interval(metrics['overall'])}, n = {metrics['overall']['n']}")


def records(model: MedFM, found: LabelledScans, *, partial: bool) -> Iterator[Record]:
    names = list(found.labels.values())
    for pair in found.pairs:
        scan, truth = read_labels(pair, found.labels)
        mask = outline(model, scan, names)
        drawn = np.zeros_like(truth) if mask is None else mask.array
        d, h, w = scan.spacing[::-1]
        yield {
            "case": pair.name,
            "patient": pair.patient,
            "classes": agreement(drawn, truth, spacing=(d, h, w), labels=names, partial=partial),
        }


if __name__ == "__main__":
    main()
