"""What an evaluation leaves behind: its figures as one JSON file, and a line of JSON for each case."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["write_results"]


def write_results(output: Path, metrics: Mapping[str, Any], cases: Iterable[Mapping[str, Any]]) -> None:
    """Write `output/metrics.json` and `output/cases.jsonl`.

    JSON knows no NaN: it becomes null in the cases, whose numbers are rounded to 6 places.
    """
    output.mkdir(parents=True, exist_ok=True)
    (output / "cases.jsonl").write_text("".join(json.dumps(_plain(case)) + "\n" for case in cases), encoding="utf-8")
    (output / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")


def _plain(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {key: _plain(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_plain(value) for value in values]
    if isinstance(values, float):
        return None if math.isnan(values) else round(values, 6)
    return values
