"""Split a JSONL of questions by image into train.jsonl and validate.jsonl: no picture ends up on both sides.

python tasks/vqa/split.py vqa_rad/train.jsonl --output runs/vqa_rad --hold 0.2
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--hold", type=float, default=0.2, help="share of the images kept for validation")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    sides: dict[str, list[str]] = {"train": [], "validate": []}
    for line in options.rows.read_text().splitlines():
        row = json.loads(line)
        number = int(hashlib.sha256(row["image"].encode()).hexdigest(), 16) % 1000
        row["image"] = os.path.relpath(options.rows.parent / row["image"], options.output)
        sides["validate" if number < 1000 * options.hold else "train"].append(json.dumps(row))
    for side, lines in sides.items():
        (options.output / f"{side}.jsonl").write_text("\n".join(lines) + "\n")
        print(f"{side}: {len(lines)} rows")


if __name__ == "__main__":
    main()
