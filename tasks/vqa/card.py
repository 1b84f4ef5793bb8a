"""Put the figures of evaluation runs into an adapter's card, and their metrics beside it.

    python tasks/vqa/card.py adapters/default slake=runs/slake vqa_rad=runs/vqa_rad

Each run is a folder that `medfm evaluate vqa` wrote. The table stands between the two marks in the card; the rest of
the card is written by hand.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

START, END = "<!-- figures: written by tasks/vqa/card.py -->", "<!-- end of figures -->"
ROWS = {
    "overall": "exact match, all questions", "closed": "closed (yes/no, either/or)", "open": "open",
    "token_f1": "token F1", "blank_image": "same model, blank image",
    "most_frequent": "most frequent answer per question",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("runs", nargs="+", metavar="NAME=DIR")
    options = parser.parse_args()
    runs = {
        name: json.loads((Path(folder) / "metrics.json").read_text())
        for name, folder in (r.split("=", 1) for r in options.runs)
    }
    for number, (name, metrics) in enumerate(runs.items()):
        file = f"metrics-{name}.json" if number else "metrics.json"  # the first is the headline of `medfm models`
        (options.adapter / file).write_text(json.dumps(metrics, indent=1) + "\n")
    lines = [
        "| % (95 % interval) | "
        + " | ".join(f"{n}: {m['data']['questions']} questions, {m['data']['images']} images" for n, m in runs.items())
        + " |",
        "|---|" + "---|" * len(runs),
    ]
    for key, label in ROWS.items():
        lines.append(f"| {label} | " + " | ".join(_cell(m, key) for m in runs.values()) + " |")
    card = options.adapter / "README.md"
    text = card.read_text()
    before, rest = text.split(START, 1)
    card.write_text(before + START + "\n" + "\n".join(lines) + "\n" + END + rest.split(END, 1)[1])


def _cell(metrics: dict, key: str) -> str:
    figure = metrics[key]
    figure = figure.get("overall", figure)
    if figure["value"] is None:
        return "-"
    return f"{100 * figure['value']:.1f} ({100 * figure['low']:.1f} to {100 * figure['high']:.1f})"


if __name__ == "__main__":
    main()
