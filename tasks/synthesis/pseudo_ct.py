"""Make a second kind of scan of a T1-weighted one, by a curve that rises and falls: synthetic, and no CT.

python tasks/synthesis/pseudo_ct.py t1.nii.gz --output pseudo.nii.gz
"""

import argparse
from pathlib import Path

import numpy as np

import medfm

CURVE = ((0.0, 0.0), (0.08, 0.0), (0.2, 0.9), (0.45, 0.3), (0.65, 0.75), (0.85, 0.5), (1.0, 1.0))

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("scan", type=Path)
parser.add_argument("--output", type=Path, required=True)
chosen = parser.parse_args()
scan = medfm.Scan.read(chosen.scan)
low, high = np.percentile(scan.data, (0.5, 99.9))
values = np.interp((scan.data[0].astype(np.float32) - low) / (high - low), *zip(*CURVE, strict=True))
medfm.Scan.from_array(values.astype(np.float32), affine=scan.affine).write(chosen.output)
