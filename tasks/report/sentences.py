"""Write report texts for a question-answer set from its true findings: rows that `medfm train report/default` reads.

    python tasks/report/sentences.py slake/train.jsonl --output runs/report/train.jsonl --ways 4

The findings are those of the boxes and answers (medfm.data.truths); the sentences are drawn from templates, so they
are synthetic, and only as true as the labels. Each way of asking gets its own draw of words and order.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections import defaultdict
from pathlib import Path

from PIL import Image

from medfm.data.truths import true_findings
from medfm.language.wording import write

REQUESTS = (
    "Write the findings.", "Describe this image.", "Draft the findings of a report.", "What does this image show?",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--ways", type=int, default=4, help="texts an image")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    choose = random.Random(options.seed)
    rows = defaultdict(list)
    for line in options.rows.read_text().splitlines():
        row = json.loads(line)
        rows[row["image"]].append(row)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for image, about in rows.items():
        path = options.rows.parent / image
        boxes = json.loads((path.parent / "boxes.json").read_text())
        with Image.open(path) as picture:
            width = picture.width
        findings = list(true_findings(about, [(b["label"], b["xywh"]) for b in boxes], width=width).findings)
        for number in range(options.ways if findings else 0):
            sentences = [text for text, _ in write(findings, choose=choose)]
            if number:  # the first request always gets the usual order
                choose.shuffle(sentences)
            kept = {key: about[0][key] for key in ("modality", "location") if key in about[0]}
            where = os.path.relpath(path, options.output.parent)
            asked = REQUESTS[number % len(REQUESTS)]
            written.append({"image": where, "question": asked, "answer": " ".join(sentences), **kept})
    options.output.write_text("".join(json.dumps(row) + "\n" for row in written))
    print(f"{len(written)} texts about {len(rows)} images")


if __name__ == "__main__":
    main()
