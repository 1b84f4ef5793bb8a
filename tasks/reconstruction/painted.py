"""Heads in contrasts of chance, to learn MR reconstruction from: whole, and crops as small as a hippocampus'.

    python tasks/reconstruction/painted.py subject_01.nii.gz ... --output DIR

Each label map is painted, bent and scanned twice (`medfm.data.synthetic`): whole in DIR/whole, and as a box of 40 to 80
mm cut from its middle in DIR/crops. They are synthetic. The true pictures are painted too, so nothing real is in them
but the shapes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from medfm.data.brain import read_heads
from medfm.data.synthetic import synthetic_scan
from medfm.scan import Scan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    heads = read_heads([str(path) for path in given.labels])
    for file, head in zip(track(given.labels, "painting"), heads, strict=True):
        name = file.name.split(".")[0]
        whole = synthetic_scan(head, generator=generator, slices=(1.0, 2.0)).scan
        whole.write(given.output / "whole" / f"{name}.nii.gz")
        again = synthetic_scan(head, generator=generator, slices=(1.0, 1.0)).scan
        cropped(again, generator).write(given.output / "crops" / f"{name}.nii.gz")


def cropped(scan: Scan, generator: torch.Generator) -> Scan:
    """A box of 40 to 80 mm a side, its middle within 30 mm of the scan's."""
    start, sides = [], []
    for n, mm in zip(scan.data.shape[1:], scan.spacing[::-1], strict=True):
        side = int((40 + 40 * float(torch.rand((), generator=generator))) / mm)
        shift = int(60 * (float(torch.rand((), generator=generator)) - 0.5) / mm)
        start.append(max(0, (n - side) // 2 + shift))
        sides.append(side)
    cut = tuple(slice(a, a + n) for a, n in zip(start, sides, strict=True))
    affine = scan.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.array(start[::-1])
    return Scan.from_array(scan.data[0][cut], affine=affine, modality="MR")


if __name__ == "__main__":
    main()
