"""Cut a labelled volume into slabs and write yes/no questions about the organs in view, for `medfm evaluate vqa`.

    python tasks/vqa/slabs.py ct.nii.gz ct_labels.nii.gz --output runs/slabs
    medfm evaluate vqa runs/slabs/rows.jsonl --output runs/slabs

Label numbers are TotalSegmentator's (classes of its `total` task, version 2). An organ counts as in view from 3 ml on;
slabs that hold less than that but more than nothing are left out for that organ, since either answer would be fair.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import nibabel as nib
import numpy as np

ORGANS = {
    "liver": [5], "spleen": [1], "kidney": [2, 3], "bladder": [21], "lung": [10, 11, 12, 13, 14], "heart": [51],
    "colon": [20], "small bowel": [18], "stomach": [6],
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--thickness", type=float, default=24.0, help="mm along the body")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    scan, labels = (nib.as_closest_canonical(nib.load(p)) for p in (options.scan, options.labels))
    values = np.asanyarray(labels.dataobj)
    spacing = scan.header.get_zooms()[:3]
    count = max(1, round(options.thickness / spacing[2]))
    ml = float(np.prod(spacing)) / 1000
    rows = []
    for number, start in enumerate(range(0, values.shape[2] - count + 1, count)):
        inside = (slice(None), slice(None), slice(start, start + count))
        name = f"slab{number:02d}.nii.gz"
        nib.save(scan.slicer[inside], options.output / name)
        for organ, ids in ORGANS.items():
            volume = np.isin(values[inside], ids).sum() * ml
            if volume == 0 or volume >= 3:
                answer = "Yes" if volume else "No"
                rows.append(
                    {
                        "image": name,
                        "question": f"Does the picture contain {organ}?",
                        "answer": answer,
                        "answer_type": "CLOSED",
                        "content_type": organ,
                    }
                )
    (options.output / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    print(f"{len(rows)} questions about {number + 1} slabs")


if __name__ == "__main__":
    main()
