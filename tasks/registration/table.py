"""Print the figures of several registrations as one Markdown table.

    python tasks/registration/table.py runs/figures/syn runs/figures/bspline runs/figures/hippocampus ...

Each is a folder that `medfm evaluate register` wrote, all of them on the same pairs. Where the transforms came from
another program, the `seconds.json` that `syn.py` wrote may lie beside `metrics.json`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    print("| | pairs | Dice | Dice before | HD95, mm | folded, % | SD of log Jacobian | s of a core |")
    print("|---|---|---|---|---|---|---|---|")
    for folder in parser.parse_args().runs:
        m: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
        cells = [
            folder.name, str(m["data"]["cases"]), interval(m["overall"]), f"{m['before']['overall']['value']:.3f}",
            f"{m['hd95']['value']:.2f}", f"{m['folding_percent']['value']:.3f}",
            f"{m['sd_log_jacobian']['value']:.2f}", seconds(folder, m),
        ]  # fmt: skip
        print(f"| {' | '.join(cells)} |")


def interval(figure: dict[str, float]) -> str:
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


def seconds(folder: Path, metrics: dict[str, Any]) -> str:
    if (value := metrics["cpu_seconds"]["value"]) is not None:
        return f"{value:.2f}"
    file = folder / "seconds.json"
    return f"{mean(s['cpu_seconds'] for s in json.loads(file.read_text())):.2f}" if file.exists() else ""


if __name__ == "__main__":
    main()
