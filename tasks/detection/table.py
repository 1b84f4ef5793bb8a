"""Print the figures of several detectors as one Markdown table.

    python tasks/detection/table.py FIGURES[=ABLATION] ... --runs DIR [--blobs FIGURES]

FIGURES are folders that `medfm evaluate detect` wrote; ABLATION one of the same network without its mechanism. DIR
holds the folders of the trainings, named like the models, for their minutes. On pictures the figure is AP at IoU 0.5
and the baseline a box at each class's mean place; in volumes it is CPM, and the baseline what `blobs.py` wrote.
Exchanged: the negative control, the boxes found on one scan held against what is drawn on the next.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from medfm.evaluate.markdown import interval, metrics, minutes, print_table, with_ablation

HEAD = (
    "recipe", "scans", "boxes", "parameters", "minutes", "CPU s a scan", "figure", "baseline", "without its mechanism",
    "exchanged",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="+")
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--blobs", type=Path)
    given = parser.parse_args()
    blobs = metrics(given.blobs) if given.blobs else None
    print_table(HEAD, [row(*with_ablation(words), blobs, given.runs) for words in given.figures])


def row(m: dict[str, Any], without: dict[str, Any] | None, blobs: dict[str, Any] | None, runs: Path) -> list[str]:
    model, key = m["model"], "ap50" if m["hit_iou"] == 0.5 else "cpm"
    baseline = m.get("mean_place") if key == "ap50" else blobs and blobs["cpm"]
    return [
        f"`{model['name']}`", str(m["data"]["cases"]), str(m[key]["n"]), f"{model['parameters']:,}",
        minutes(runs, model["name"]), f"{model['seconds_per_scan']:.2f}",
        f"{'AP50' if key == 'ap50' else 'CPM'} {interval(m[key])}", interval(baseline) if baseline else "",
        f"{interval(without[key])}, `{without['model']['name']}`" if without else "",
        interval(m["exchanged"][key]) if "exchanged" in m else "",
    ]  # fmt: skip


if __name__ == "__main__":
    main()
