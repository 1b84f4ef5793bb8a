"""The card of an adapter that somebody trained on their own data: counts, figures, command, licence, limits."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Made", "write_card"]

_ROWS = {
    "overall": "exact match, all questions", "closed": "closed (yes/no)", "open": "open", "token_f1": "token F1",
    "blank_image": "same model, blank image", "most_frequent": "most frequent answer per question",
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    """How an adapter came to be. score: share right in the training's own check, where nothing better was measured."""

    task: str
    parent: str
    base: str
    licence: str
    command: str
    train_cases: int
    held_cases: int
    volumes: int
    patients: int
    left_out: int
    passes: int
    score: float


def write_card(folder: Path, made: Made, *, metrics: dict[str, Any] | None, before: dict[str, Any] | None) -> None:
    """Write `README.md` with the YAML header that Hugging Face reads.

    metrics: of `evaluate_vqa` on the held-out questions, None where there are none with a file. before: the same of
    the parent.
    """
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) / 1e6
    patients = f"{made.patients} patients" if made.patients else "patients not named, so every image counted as one"
    (folder / "README.md").write_text(
        f"""---
license: {json.dumps(made.licence, ensure_ascii=False)}
base_model: {made.base}
library_name: peft
pipeline_tag: visual-question-answering
---

# {folder.name}: {"reports" if made.task == "report" else "answers"}, fine-tuned from `{made.parent}`

Written by `medfm finetune`. For research. It assists; it is not for diagnosis. {size:.1f} MB: a LoRA adapter that plain
`peft` opens, and of the eye what differs from `{made.parent}`, which has to be installed too (or see `medfm adapter
merge`).

## Data

| | scans | |
|---|---|---|
| trained on | {made.train_cases} | of them volumes: {made.volumes}; {patients} |
| held out, by patient and by pixels | {made.held_cases} | |

Rows left out as unusable: {made.left_out}. The data are not here; whoever hands this on should say where they are from
and that their licence allows it.

## How it was made

```
{made.command}
```

{made.passes} passes; the weights are those of the pass that did best on the held-out scans, so the figures below are a
little kinder than those of scans never looked at.

## Figures

{_figures(made, metrics, before)}

## Limits

It has seen few scans of one source. Measure it on your own (`medfm evaluate vqa`) before you lean on it. What stands in
the texts it learned from, it can repeat.
"""
    )


def _figures(made: Made, metrics: dict[str, Any] | None, before: dict[str, Any] | None) -> str:
    if metrics is None:
        return (
            f"Exact match in the training's own check on held-out scans: {100 * made.score:.1f} %. Blank images were "
            "not asked about: no held-out scan is a single file."
        )
    columns = [(f"this adapter, {metrics['overall']['n']} questions", metrics)]
    if before is not None:
        columns.append((f"`{made.parent}`, before", before))
    lines = [
        "| % (95 % interval by image) | " + " | ".join(n for n, _ in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for key, label in _ROWS.items():
        lines.append(f"| {label} | " + " | ".join(_cell(m[key]) for _, m in columns) + " |")
    return "\n".join(lines)


def _cell(figure: dict[str, Any]) -> str:
    if figure["value"] is None:
        return "-"
    return f"{100 * figure['value']:.1f} ({100 * figure['low']:.1f} to {100 * figure['high']:.1f})"
