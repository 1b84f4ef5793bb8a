"""SLAKE's CT of abdomen and pelvis with outlines by people as slices in HU, to measure outlines on reconstructions.

    python tasks/reconstruction/outlined_ct.py slake --output DIR

They are the pictures of the validation part, on which nothing here was trained; `dataset.json` names their organs.
SLAKE shows CT in grey: here black is air and the rest a window of 400 HU around 50, in which fat and muscle fall where
they belong. Its pictures do not tell their mm: each body is taken to be 340 mm wide, and brought to the pixels of 3 mm
that the recipes know. So the anatomy and the outlines are real, the numbers are not quite HU.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medfm.config import load_recipe
from medfm.data.volumes import find_pairs, read_labels
from medfm.grid import resample, resample_labels
from medfm.scan import Scan

WIDE, PIXEL = 340.0, 3.0  # mm of a body and of a pixel
BLACK = 5  # grey levels of 255 that are air
PARTS = ("Abdomen", "Pelvic Cavity")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    organs = {int(k): str(v) for k, v in load_recipe("segmentation/organs")["data"]["labels"].items()}
    questions = given.data / "validate.jsonl"
    rows = [json.loads(line) for line in questions.read_text().splitlines()]
    ct = {row["image"] for row in rows if row["modality"] == "CT" and row["location"] in PARTS}
    lying = np.diag([-PIXEL, -PIXEL, 1.0, 1.0])  # rows to posterior, columns to left, as pictures show CT
    listed = []
    for pair in find_pairs(questions, labels=organs).pairs:
        picture, drawn = read_labels(pair, organs)
        if pair.name not in ct or not drawn.any():
            continue
        mm = WIDE / body_width(picture.data[0, 0])
        h, w = (max(1, round(n * mm / PIXEL)) for n in drawn.shape[1:])
        grey = resample(picture.data[:1], (1, h, w))[0]
        name = pair.image.parent.name
        hu = np.where(grey < BLACK, -1000.0, grey / 255 * 400 - 150)
        Scan.from_array(hu, affine=lying, modality="CT", units="HU").write(given.output / "images" / f"{name}.nii.gz")
        labels = resample_labels(drawn, (1, h, w))
        Scan.from_array(labels, affine=lying).write(given.output / "labels" / f"{name}.nii.gz")
        listed.append({kind: f"{kind}s/{name}.nii.gz" for kind in ("image", "label")})
    names = {str(number): name for number, name in enumerate(organs.values(), 1)}
    about = {"name": "SLAKE's CT", "modality": {"0": "CT"}, "labels": {"0": "background", **names}, "training": listed}
    (given.output / "dataset.json").write_text(json.dumps(about, indent=1) + "\n")
    print(f"{len(listed)} slices in {given.output}")


def body_width(grey: NDArray) -> int:
    """Columns of a picture (H, W) that the body spans; a table is too thin to count."""
    parts, _ = ndimage.label(ndimage.binary_opening(grey >= BLACK, iterations=4))
    body = ndimage.find_objects(parts)[np.argmax(np.bincount(parts.ravel())[1:])]
    return int(body[1].stop - body[1].start)


if __name__ == "__main__":
    main()
