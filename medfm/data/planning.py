"""A data set read for nnU-Net's planning, and the plan as a recipe that can be read, edited and trained."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from numpy.typing import NDArray

from medfm.data.volumes import LabelledScans, find_pairs, read_labels
from medfm.plan import Plan, fingerprint, plan, recipe

__all__ = ["Planned", "planned"]


class Planned(NamedTuple):
    """`text`: a recipe in YAML. `summary`: what was found and what the configurations are, for people."""

    text: str
    summary: str


def planned(
    path: Path, *, memory: float = 8.0, configuration: str = "", channel: str = "",
    labels: Mapping[int, str] | None = None,
) -> Planned:  # fmt: skip
    """The plan of a labelled data set (see `find_pairs`) for a card of `memory` GB; every scan is read once.

    configuration: of `medfm.plan.Plan`; default: "3d_fullres", for pictures "2d". channel: "CT" or another word,
    instead of what the data set says. Raises DataError as `find_pairs` and `medfm.plan.recipe` do.
    """
    import yaml

    data = find_pairs(path, labels=labels)
    word = channel or data.channel or "MRI"
    told = fingerprint(_read(data), channels=[word], classes=len(data.labels) + 1)
    found = plan(told, memory=memory)
    name = configuration or ("3d_fullres" if "3d_fullres" in found.configurations else "2d")
    sides = any({"left", "right"} & set(label.casefold().replace("_", " ").split()) for label in data.labels.values())
    objective = recipe(found, told, configuration=name, sides=sides)
    summary = _summary(data, word, found)
    node = {
        "objective": json.loads(json.dumps(objective)),  # lists that stand twice are written twice
        "data": {"train": str(path.resolve()), "labels": data.labels, "hold": 0.15, "split": 0},
        "train": {
            "epochs": 1000, "rate": 3.0e-3, "decay": 0.01, "average": 0.995, "half": True, "minutes": 10, "budget": 0,
            "seed": 0,
        },
    }  # fmt: skip
    head = "".join(f"# {line}\n" for line in [f"nnU-Net's plan {name}, to be edited.", *summary.splitlines()])
    return Planned(head + yaml.safe_dump(node, sort_keys=False, default_flow_style=None, width=120), summary)


def _read(data: LabelledScans) -> Iterator[tuple[NDArray, NDArray, tuple[float, ...]]]:
    from rich.progress import track

    for pair in track(data.pairs, description="reading scans", transient=True):
        scan, drawn = read_labels(pair, data.labels)
        yield scan.data, drawn, scan.spacing[::-1]


def _summary(data: LabelledScans, word: str, found: Plan) -> str:
    lines = [
        f"{data.name}: {len(data.pairs)} scans ({word}), {len(data.labels)} labels; axes {found.axes}, coarsest first"
    ]
    for name, one in found.configurations.items():
        mm = " x ".join(f"{s:.3g}" for s in one.spacing)
        size, patch = (" x ".join(str(round(n)) for n in values) for values in (one.size, one.patch))
        lines.append(
            f"{name}: {mm} mm, median {size}, patch {patch}, batch {one.batch}, {len(one.strides)} stages of "
            f"{one.channels[0]} to {one.channels[-1]} features, normalised by {', '.join(one.normalise)}"
        )
    return "\n".join(lines)
