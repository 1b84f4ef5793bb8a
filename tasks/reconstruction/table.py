"""Print the figures of several evaluations as one Markdown table.

    python tasks/reconstruction/table.py runs/figures/cascade runs/figures/redcnn ...

Each is a folder that `medfm evaluate reconstruct` wrote. Gains are over the direct reconstruction of the same slices.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    print(
        "| network | slices | parameters | s a slice | PSNR, dB | direct | best classical | SSIM | direct | classical |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for folder in parser.parse_args().runs:
        m: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
        names = " + ".join(m["data"]["names"])
        cells = [
            folder.name, f"{m['data']['cases']} of {names}", f"{m['model']['parameters']:,}",
            f"{m['model']['seconds']:.2f}", interval(m["network"]["psnr"]), value(m["start"], "psnr", 2),
            value(m.get("classical"), "psnr", 2), interval(m["network"]["ssim"], digits=3),
            value(m["start"], "ssim", 3), value(m.get("classical"), "ssim", 3),
        ]  # fmt: skip
        print(f"| {' | '.join(cells)} |")


def interval(figure: dict[str, float], *, digits: int = 2) -> str:
    return " ".join(
        [f"{figure['value']:.{digits}f}", f"({figure['low']:.{digits}f} to {figure['high']:.{digits}f})"]
    )  # fmt: skip


def value(part: dict[str, Any] | None, name: str, digits: int) -> str:
    return "" if part is None else f"{part[name]['value']:.{digits}f}"


if __name__ == "__main__":
    main()
