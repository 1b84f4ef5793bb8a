"""A big volume through one network tile by tile, beside MONAI's SlidingWindowInferer on the same tiles and weights."""

from __future__ import annotations

import argparse

from measure import in_process, show

START = """
import sys, time
import numpy as np, torch
from medfm.grid import GridPrepare
from medfm.scan import Scan
from medfm.segmenter import Segmenter
d, h, w, classes, side = map(int, sys.argv[1:])
torch.manual_seed(0)
encoder = {"name": "conv", "channels": [8, 16, 32], "strides": [2, 2, 2], "convs": 1}
model = Segmenter(
    encoder=encoder, head={"convs": 1}, labels=[str(n) for n in range(1, classes)], prepare={}, patch=[side] * 3
).eval()
values = np.random.default_rng(0).integers(-1000, 1000, (d, h, w), dtype=np.int16)
scan = Scan.from_array(values, affine=np.eye(4))
"""
OURS = (
    START
    + """
start = time.perf_counter()
labels = model.label(model.preparation(scan))
seconds = time.perf_counter() - start
print(np.bincount(labels.ravel(), minlength=classes).argsort()[-3:])
"""
)
PLAIN = (
    START
    + """
from monai.inferers import SlidingWindowInferer
inferer = SlidingWindowInferer([side] * 3, sw_batch_size=1, overlap=0.5, mode="gaussian", progress=False)
spacing = torch.ones(1, 3)
start = time.perf_counter()
with torch.inference_mode():
    x = model.preparation(scan).numbers()[None]
    labels = inferer(x, lambda tile: model(tile, spacing)[0].softmax(1)).argmax(1)[0].to(torch.uint8).numpy()
seconds = time.perf_counter() - start
print(np.bincount(labels.ravel(), minlength=classes).argsort()[-3:])
"""
)
ALONE = START + "\nseconds = 0.0\n"


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--shape", type=int, nargs=3, default=[300, 512, 512], metavar=("D", "H", "W"))
    options.add_argument("--classes", type=int, default=3)
    options.add_argument("--side", type=int, default=128, help="voxels of a tile's sides")
    given = options.parse_args()
    words = [str(n) for n in (*given.shape, given.classes, given.side)]
    alone, plain, ours = (in_process(code, *words) for code in (ALONE, PLAIN, OURS))
    if plain[2] != ours[2]:
        raise SystemExit(f"the most frequent classes differ: MONAI {plain[2]}, medfm {ours[2]}")
    rows = [
        ("SlidingWindowInferer", *plain[:2]),
        ("Segmenter.label", *ours[:2]),
        ("the scan and the network, nothing else", *alone[:2]),
    ]
    show(f"{' x '.join(words[:3])} voxels, {given.classes} classes, tiles of {given.side}", rows, against=0)


if __name__ == "__main__":
    main()
