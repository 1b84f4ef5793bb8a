r"""Write synthetic brain MR of several people as a labelled data set, and pairs of the people held out.

    python tasks/registration/heads.py subject_*.nii.gz --output heads
    python tasks/registration/heads.py subject_13.nii.gz subject_14.nii.gz --images 10 --sides --common 1 \
        --spacing 1 --window 192 224 192 --held 0 --output painted         # for medfm evaluate segment
    python tasks/registration/heads.py subject_13.nii.gz subject_14.nii.gz --images 5 --common 1 \
        --spacing 1.5 --window 128 160 128 --held 2 --output pairs      # for medfm evaluate register
    medfm train registration/synthmorph data.train=heads 'data.hold=[subject_13, subject_14]' ... --output runs/brain
    medfm evaluate register heads/pairs.jsonl --model runs/brain --output runs/figures/brain

Each image is painted anew from a person's label map, with a contrast, resolution, bias and pose of its own; the two
images of a pair are of two different people, and the pairs are in random order. The last people of the list are held
out.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch

from medfm.data.brain import MAIN, Head, value_names
from medfm.scan import Mask, Scan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("maps", nargs="+", type=Path, help="label maps of heads with FreeSurfer's numbers")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--held", type=int, default=4, help="how many people, the last ones, are kept for pairs")
    parser.add_argument("--spacing", type=float, default=3.0, help="mm")
    parser.add_argument("--window", type=int, nargs=3, default=(64, 80, 64), help="voxels along D, H, W")
    parser.add_argument("--images", type=int, default=1, help="of each person")
    parser.add_argument("--sides", action="store_true", help="left and right are labels of their own")
    parser.add_argument("--common", type=float, default=0.0, help="share in the order of T1, T2 or FLAIR")
    given = parser.parse_args()
    for kind in ("imagesTr", "labelsTr"):
        (given.output / kind).mkdir(parents=True, exist_ok=True)
    names, number = list(MAIN), np.zeros(256, dtype=np.uint8)
    if given.sides:
        names = [name for name in value_names().values() if name.removeprefix("left ").removeprefix("right ") in MAIN]
    for value, name in value_names().items():
        wanted = name if given.sides else name.removeprefix("left ").removeprefix("right ")
        if wanted in names:
            number[value] = names.index(wanted) + 1
    affine, rows = np.diag([*[given.spacing] * 3, 1.0]), []
    for index, path in enumerate(sorted(given.maps)):
        head, generator = Head.read(path), torch.Generator().manual_seed(index)
        for image_of in range(given.images):
            image, values = head.sample(given.window, spacing=given.spacing, generator=generator, common=given.common)
            name = head.name if given.images == 1 else f"{head.name}-{image_of}"
            row = {kind: f"{kind}Tr/{name}.nii.gz" for kind in ("images", "labels")}
            Scan.from_array(image.numpy(), affine=affine).write(given.output / row["images"])
            Mask(number[values.numpy()], affine).write(given.output / row["labels"])
            rows.append({"image": row["images"], "label": row["labels"]})
    labels = {"0": "background", **{str(i): name for i, name in enumerate(names, 1)}}
    (given.output / "dataset.json").write_text(json.dumps({"labels": labels, "training": rows}, indent=1))
    held = rows[-given.held * given.images :] if given.held else []
    pairs = [
        {
            "moving": a["image"], "fixed": b["image"], "moving_labels": a["label"], "fixed_labels": b["label"],
            "patient": Path(b["image"]).name.split(".")[0],
        }
        for i, a in enumerate(held) for j, b in enumerate(held) if i // given.images != j // given.images
    ]  # fmt: skip
    random.Random(0).shuffle(pairs)  # the first few are a sample of all
    (given.output / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))


if __name__ == "__main__":
    main()
