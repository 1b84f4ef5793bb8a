"""Write the pairs that a registration model is measured on: held-out scans of a labelled data set, any two of them.

python tasks/registration/pairs.py Task04_Hippocampus --count 60 --output pairs.jsonl
"""

import argparse
import json
import os
from pathlib import Path

from medfm.data.pairs import draw_pairs
from medfm.data.patients import split_patients
from medfm.data.volumes import find_pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a labelled data set")
    parser.add_argument("--output", type=Path, required=True, help="file of JSON lines, with paths relative to it")
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--hold", type=float, default=0.15, help="share of the patients held out, as the recipes do")
    parser.add_argument("--split", type=int, default=0)
    given = parser.parse_args()
    held = split_patients(find_pairs(given.data).pairs, hold=given.hold, seed=given.split)[1]
    given.output.parent.mkdir(parents=True, exist_ok=True)
    with given.output.open("w") as file:
        for m, f in draw_pairs(len(held), given.count, seed=0):
            row = {
                "moving": held[m].image, "fixed": held[f].image, "moving_labels": held[m].label,
                "fixed_labels": held[f].label,
            }  # fmt: skip
            near = {key: os.path.relpath(path, given.output.parent) for key, path in row.items()}
            file.write(json.dumps({**near, "patient": held[f].patient}) + "\n")


if __name__ == "__main__":
    main()
