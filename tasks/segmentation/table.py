"""Print the figures of several segmentation models as one Markdown table.

    python tasks/segmentation/table.py runs/figures/unet runs/figures/vnet ... [--runs DIR]

Each is a folder that `medfm evaluate segment` wrote, all of them on the same cases. DIR holds the folders of the
trainings, named like the models, for their minutes, their steps and what they learned: parameters that were saved, a
shared encoder's own not among them. Dice is the mean over the classes of a case, its interval by patient.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from safetensors import safe_open

from medfm.evaluate.markdown import interval, metrics, minutes, print_table

HEAD = ("recipe", "n", "parameters", "minutes", "steps", "Dice", "HD95, mm", "CPU s a scan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="+", type=Path)
    parser.add_argument("--runs", type=Path, required=True)
    given = parser.parse_args()
    print_table(HEAD, [row(folder, given.runs) for folder in given.figures])


def row(figures: Path, runs: Path) -> list[str]:
    m = metrics(figures)
    name = m["model"]["name"]
    return [
        f"`{name}`", str(m["data"]["cases"]), f"{parameters(runs / name):,}", minutes(runs, name),
        str(steps(runs / name)), interval(m["overall"]),
        f"{m['hd95']['value']:.2f}", f"{m['model']['cpu_seconds_per_scan']:.2f}",
    ]  # fmt: skip


def parameters(folder: Path) -> int:
    with safe_open(folder / "segment.safetensors", "pt") as file:
        names = [name for name in file.keys() if "running_" not in name and "tracked" not in name]  # noqa: SIM118
        return sum(math.prod(file.get_slice(name).get_shape()) for name in names)


def steps(folder: Path) -> int:
    """As many as the schedule of rates has counted: the first thing that the loop gives its checkpoint to keep."""
    taken: int = torch.load(folder / "checkpoint" / "custom_checkpoint_0.pkl", weights_only=True)["last_epoch"]
    return taken


if __name__ == "__main__":
    main()
