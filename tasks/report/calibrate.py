"""Fit an adapter's report confidences, and the confidence from which it states a lesion, and store both with it.

    python tasks/vqa/split.py slake/validate.jsonl --hold 0.5 --output runs/halves
    medfm evaluate report runs/halves/train.jsonl --adapter DIR --baseline-data slake/train.jsonl --output runs/fit
    python tasks/report/calibrate.py DIR runs/fit
    medfm evaluate report runs/halves/validate.jsonl --adapter DIR --baseline-data slake/train.jsonl --output runs/told

Reads `predictions.jsonl` of `medfm evaluate report`. Fit on one half of held-out images, told on the other: a threshold
looks better on the images that chose it. Each group of candidates gets weights of (score, said, 1) by Platt's scaling
with his targets (Platt 1999); a group with fewer than `--least` true or false candidates keeps the map's own word.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medfm.metrics import platt


def best_threshold(confidence: np.ndarray, right: np.ndarray, *, missed: int) -> float:
    """From 0.30 to 0.70, the confidence from which stating what is there gives the highest F1."""
    options = np.arange(0.30, 0.705, 0.02)

    def f1(limit: float) -> float:
        said = confidence >= limit
        hits = right[said].sum()
        return float(2 * hits / max(said.sum() + right.sum() + missed, 1))

    return round(float(max(options, key=f1)), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--least", type=int, default=3, help="candidates of either kind that a group needs")
    options = parser.parse_args()
    records = [json.loads(line) for line in (options.run / "predictions.jsonl").read_text().splitlines()]
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        for candidate in record["candidates"]:
            if candidate["verdict"] != "unknown":
                groups[candidate["group"]].append(candidate)
    fits: dict[str, list[float]] = {}
    sure, true = [], []
    for name, members in sorted(groups.items()):
        score, said, right = (
            torch.tensor([float(m[key] == "right" if key == "verdict" else m[key]) for m in members])
            for key in ("score", "said", "verdict")
        )
        if min(right.sum(), (1 - right).sum()) >= options.least:
            fits[name] = platt(torch.stack([score, said, torch.ones_like(score)], 1), right)
        weights = torch.tensor(fits.get(name, [1.0, 0.0, 0.0]))
        sure.append((torch.stack([score, said, torch.ones_like(score)], 1) @ weights).sigmoid().numpy())
        true.append(right.numpy())
        print(f"{name}: {int(right.sum())} of {len(members)} there, weights {fits.get(name, 'kept')}")
    told = {(*tuple(c["fact"]), r["image"]) for r in records for c in r["candidates"] if c["verdict"] == "right"}
    facts = [(*fact, r["image"]) for r in records for fact in r["truth"] if fact[3] and fact[0] != "abnormality"]
    missed = sum(fact not in told for fact in facts)
    state = best_threshold(np.concatenate(sure), np.concatenate(true), missed=missed)
    file = options.adapter / "medfm.json"
    about = json.loads(file.read_text())
    about["report"] = {"calibration": fits, "limits": {"state": state}, "fitted on images": len(records)}
    file.write_text(json.dumps(about, indent=1) + "\n")
    print(f"states from {state} on; written into {file.name} of {options.adapter.name}")


if __name__ == "__main__":
    main()
