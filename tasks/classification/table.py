"""Print the figures of several classifiers as one Markdown table.

    python tasks/classification/table.py FIGURES[=ABLATION] ... --runs DIR

FIGURES are folders that `medfm evaluate classify` wrote; ABLATION one of the same network without its mechanism. DIR
holds the folders of the trainings, named like the models, for their minutes. Each figure is the mean AUC of the classes
and the balanced accuracy. Baseline: the nearest mean thumbnail. Covered: the negative control, the middle painted over.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from medfm.evaluate.markdown import interval, minutes, print_table, with_ablation

HEAD = (
    "recipe", "scans", "parameters", "minutes", "CPU s a scan", "AUC; balanced accuracy", "nearest thumbnail",
    "without its mechanism", "middle covered",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="+")
    parser.add_argument("--runs", type=Path, required=True)
    given = parser.parse_args()
    print_table(HEAD, [row(*with_ablation(words), given.runs) for words in given.figures])


def row(m: dict[str, Any], without: dict[str, Any] | None, runs: Path) -> list[str]:
    model = m["model"]
    return [
        f"`{model['name']}`", str(m["data"]["cases"]), f"{model['parameters']:,}", minutes(runs, model["name"]),
        f"{model['seconds_per_scan']:.2f}", both(m), both(m.get("thumbnails")),
        f"{both(without)}, `{without['model']['name']}`" if without else "", both(m.get("covered")),
    ]  # fmt: skip


def both(part: dict[str, Any] | None) -> str:
    return "" if part is None else f"{interval(part['auc'])}; {interval(part['balanced_accuracy'])}"


if __name__ == "__main__":
    main()
