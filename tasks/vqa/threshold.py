"""Choose the confidence below which an adapter declines, and store it with the adapter.

    python tasks/vqa/threshold.py adapters/default runs/slake runs/vqa_rad --wrong 0.6

Reads `predictions.jsonl` of `medfm evaluate vqa` runs on held-out images and takes the highest confidence below which
at least the share `--wrong` of the answers is wrong. Prints how many answers remain and how good they are.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--wrong", type=float, default=0.6)
    options = parser.parse_args()
    rows = [json.loads(line) for run in options.runs for line in (run / "predictions.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["confidence"] is not None]
    confidence = np.array([row["confidence"] for row in rows])
    right = np.array([row["correct"] for row in rows])
    chosen = 0.0
    for threshold in np.arange(0.05, 0.95, 0.01):
        below = confidence < threshold
        if below.sum() >= 20 and right[below].mean() <= 1 - options.wrong:
            chosen = round(float(threshold), 2)
    keep = confidence >= chosen
    print(f"abstain below {chosen}: answers {keep.mean():.1%} of {len(rows)}, of which {right[keep].mean():.1%} right")
    if not keep.all():
        print(f"of those declined, {right[~keep].mean():.1%} would have been right")
    file = options.adapter / "medfm.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "abstain": chosen}, indent=1) + "\n")


if __name__ == "__main__":
    main()
