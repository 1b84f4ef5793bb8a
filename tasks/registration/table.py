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

from medfm.evaluate.markdown import interval, metrics, print_table

HEAD = ("", "pairs", "Dice", "Dice before", "HD95, mm", "folded, %", "SD of log Jacobian", "s of a core")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    print_table(HEAD, [row(folder) for folder in parser.parse_args().runs])


def row(folder: Path) -> list[str]:
    m = metrics(folder)
    return [
        folder.name, str(m["data"]["cases"]), interval(m["overall"]), f"{m['before']['overall']['value']:.3f}",
        f"{m['hd95']['value']:.2f}", f"{m['folding_percent']['value']:.3f}", f"{m['sd_log_jacobian']['value']:.2f}",
        seconds(folder, m),
    ]  # fmt: skip


def seconds(folder: Path, figures: dict[str, Any]) -> str:
    if (value := figures["cpu_seconds"]["value"]) is not None:
        return f"{value:.2f}"
    file = folder / "seconds.json"
    return f"{mean(s['cpu_seconds'] for s in json.loads(file.read_text())):.2f}" if file.exists() else ""


if __name__ == "__main__":
    main()
