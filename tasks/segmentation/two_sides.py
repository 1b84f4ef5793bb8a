"""Whether scans that count as of different patients are the two sides of one head, and whether that flatters a model.

    python tasks/segmentation/two_sides.py Task04_Hippocampus --model hippocampus --figures runs/figures
    python tasks/segmentation/two_sides.py Task04_Hippocampus --pairs people.jsonl

The hippocampus set has crops of both sides of a head and does not say which belong together. Brightness tells: MR has
no scale of its own, so two heads rarely have the same median, and two crops of one head nearly always do. Neighbours
by number are compared with all other pairs; then Dice (`cases.jsonl` of `medfm evaluate segment`) of those held-out
crops that have such a neighbour among the crops trained on with that of the others. `--pairs` writes the set as JSON
lines in which two such neighbours are one patient, for a split by person: `data.train=people.jsonl
"data.labels={1: Anterior, 2: Posterior}"`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from medfm.data.patients import of_held_patients
from medfm.data.volumes import Pair, find_pairs
from medfm.evaluate.markdown import interval
from medfm.metrics import bootstrap_interval
from medfm.scan import Scan
from medfm.segmenter import load_segmenter

ALIKE = 0.1  # of the median


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="hippocampus")
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--figures", type=Path)
    wanted.add_argument("--pairs", type=Path, metavar="FILE")
    given = parser.parse_args()
    pairs = find_pairs(given.data).pairs
    numbers = {pair.patient: int(re.findall(r"\d+", pair.name)[-1]) for pair in pairs}
    medians = {numbers[pair.patient]: float(np.median(Scan.read(pair.image).data)) for pair in pairs}
    near = [alike(medians[a], medians[a + 1]) for a in medians if a + 1 in medians]
    far = [alike(medians[a], medians[b]) for a, b in itertools.combinations(medians, 2) if abs(a - b) > 1]
    print(f"alike in brightness: {sum(near)} of {len(near)} neighbours, {np.mean(far):.0%} of all other pairs")
    if given.pairs:
        write_pairs(given.pairs, pairs, numbers, medians)
        return
    held = {numbers[pair.patient] for pair in of_held_patients(pairs, load_segmenter(given.model).about)[0]}
    known = {n for n in held if other_side(n, medians, held)}
    lines = (given.figures / "cases.jsonl").read_text().splitlines()
    scores = {
        numbers[row["patient"]]: float(np.nanmean([c["dice"] for c in row["classes"].values()]))
        for row in map(json.loads, lines)
    }
    for words, chosen in (("with", known), ("without", held - known)):
        told([scores[n] for n in sorted(chosen & set(scores))], words)


def alike(one: float, other: float) -> bool:
    return abs(one - other) < ALIKE * max(one, other)


def other_side(number: int, medians: dict[int, float], held: set[int]) -> list[int]:
    """Its neighbours that were trained on and are as bright."""
    beside = [n for n in (number - 1, number + 1) if n in medians and n not in held]
    return [n for n in beside if alike(medians[number], medians[n])]


def write_pairs(file: Path, pairs: Sequence[Pair], numbers: dict[str, int], medians: dict[int, float]) -> None:
    """Each crop's person is named by the smaller of two neighbouring numbers as bright; no person has three sides."""
    person: dict[int, int] = {}
    for n in sorted(medians):
        paired = person.get(n - 1) == n - 1 and alike(medians[n], medians[n - 1])
        person[n] = n - 1 if paired else n
    with file.open("w") as out:
        for pair in pairs:
            row = {"image": str(pair.image.resolve()), "label": str(pair.label.resolve())}
            out.write(json.dumps({**row, "patient": f"person {person[numbers[pair.patient]]}"}) + "\n")
    print(f"{file}: {len(pairs)} crops of {len(set(person.values()))} people")


def told(scores: Sequence[float], words: str) -> None:
    if scores:
        figure = bootstrap_interval(scores, list(map(str, range(len(scores)))))
        print(f"Dice of held-out crops {words} such a neighbour: {interval(asdict(figure))}, n = {figure.n}")


if __name__ == "__main__":
    main()
