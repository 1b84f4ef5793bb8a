"""One line for each action, for whoever has to answer later for what happened; never who the patient is."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = ["Audit"]

_KEYS = frozenset({"session", "user", "tool", "adapter", "scan", "source", "seconds", "outcome", "format"})


class Audit:
    """Appends JSON lines to a file, or keeps silent when there is none.

    What may be said is a closed list: neither questions, answers, file names nor headers can get into the log. `scan`
    is the beginning of the hash of the pixels: it says which scan it was to those who have it, nothing to others.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path, self._lock = path, threading.Lock()

    def write(self, action: str, **about: Any) -> None:
        """Append one line. Raises ValueError for a key that is not on the list."""
        if unknown := set(about) - _KEYS:
            raise ValueError(f"not to be logged: {', '.join(sorted(unknown))}; known are {', '.join(sorted(_KEYS))}")
        if self._path is None:
            return
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "action": action}
        line |= {key: value for key, value in about.items() if value is not None}
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
