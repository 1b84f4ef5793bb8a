"""Wall time and peak memory of a piece of Python in a process of its own, and the table that compares two of them."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table


def process(arguments: Sequence[str], *, repeats: int) -> float:
    """Median wall seconds of running a command, after one run that warms the page cache."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def in_process(code: str, *arguments: str) -> tuple[float, float, str]:
    """Seconds that `code` measured as `seconds`, the process's peak memory in GB, and what it printed."""
    tail = (
        "\nimport json, resource; "
        "print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code + tail, *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    *printed, last = done.stdout.splitlines()
    seconds, peak = json.loads(last)
    return seconds, peak, "\n".join(printed)


def show(title: str, rows: Sequence[tuple[str, float, float | None]], *, against: int) -> None:
    """Rows of (what, seconds, peak GB), each with its ratio to row `against`."""
    table = Table("", "seconds", "peak GB", "times the plain way", title=title, title_justify="left")
    plain = rows[against][1]
    for index, (what, seconds, peak) in enumerate(rows):
        ratio = "1 (plain way)" if index == against else f"{seconds / plain:.2f}"
        table.add_row(what, f"{seconds:.2f}", "" if peak is None else f"{peak:.2f}", ratio)
    console = Console()
    console.print(table)
    console.print(f"[dim]{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, nice {os.nice(0)}[/]")
