"""Print the figures of several evaluations as one Markdown table.

    python tasks/reconstruction/table.py FIGURES[=ABLATION] ... [--runs DIR]

Each is a folder that `medfm evaluate reconstruct` wrote, named like the training's; ABLATION one of the same network
without its mechanism. DIR holds the folders of the trainings, for their minutes. PSNR in dB with 95 % intervals over
blocks of slices, SSIM, CPU seconds; direct and classical are of the same slices. Even disc: the negative control, PSNR
of the direct picture and the network's.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from medfm.evaluate.markdown import interval, minutes, print_table, with_ablation

HEAD = (
    "network", "slices", "parameters", "minutes", "s a slice", "PSNR", "SSIM", "direct", "best classical",
    "without its mechanism", "even disc",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="+")
    parser.add_argument("--runs", type=Path)
    given = parser.parse_args()
    rows = []
    for words in given.figures:
        m, without = with_ablation(words)
        name = m["model"]["name"]
        cells = [
            f"`{name}`", str(m["data"]["cases"]), f"{m['model']['parameters']:,}", minutes(given.runs, name),
            f"{m['model']['seconds']:.2f}", interval(m["network"]["psnr"], digits=2),
            interval(m["network"]["ssim"], digits=3), both(m["start"]), both(m.get("classical")),
            f"{interval(without['network']['psnr'], digits=2)}, `{without['model']['name']}`" if without else "",
            f"{plain['start']:.1f}, {plain['network']:.1f}" if (plain := m.get("plain")) else "",
        ]  # fmt: skip
        rows.append(cells)
    print_table(HEAD, rows)


def both(part: dict[str, Any] | None) -> str:
    return "" if part is None else f"{part['psnr']['value']:.2f}, {part['ssim']['value']:.3f}"


if __name__ == "__main__":
    main()
