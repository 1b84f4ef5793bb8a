"""Fit how sure a part of a lesion map makes one, and store it with the model.

    medfm evaluate lesions subject_10.nii.gz subject_12.nii.gz --model runs/lesions --seed 1 --output runs/fit
    python tasks/segmentation/lesion_score.py runs/lesions runs/fit/cases.jsonl
    medfm evaluate lesions subject_13.nii.gz subject_14.nii.gz --model runs/lesions --images 24 --output runs/figures

People of training for the fit, in scans painted anew; people held out for the figures.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from medfm.evaluate.lesions import fit_score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("cases", type=Path)
    given = parser.parse_args()
    file = given.model / "medfm.json"
    settings = {**json.loads(file.read_text()), "score": fit_score(given.cases)}
    file.write_text(json.dumps(settings, indent=1) + "\n")
    print(json.dumps({"score": settings["score"]}))


if __name__ == "__main__":
    main()
