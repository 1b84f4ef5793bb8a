"""One model of several: the mean of their probabilities, the first of them with the others in folders of it.

    python tasks/segmentation/join.py runs/a runs/b runs/c --output runs/mean

`--folds` of `medfm train` leaves such a model by itself; this is for runs of several recipes or starts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from medfm.segmenter import join


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    join(given.runs, given.output)


if __name__ == "__main__":
    main()
