"""Models by adapter name: loaded in the background, shared by all sessions, which only read them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

KEPT = 2  # models in memory; the default one takes about 1 GB


class Models:
    """Loads on first use. `load` takes the name of an adapter."""

    def __init__(self, load: Callable[[str], Any]) -> None:
        self._load = load
        self._futures: dict[str, Future[Any]] = {}
        self._lock = threading.Lock()

    def get(self, name: str) -> Future[Any]:
        """The model, or what went wrong with it; a failed one is tried again when it is next asked for."""
        with self._lock:
            future = self._futures.pop(name, None)
            if future is None or (future.done() and future.exception() is not None):
                future = Future()
                threading.Thread(target=self._into, args=(future, name), daemon=True).start()
            self._futures[name] = future
            while len(self._futures) > KEPT:
                del self._futures[next(iter(self._futures))]
        return future

    def peek(self, name: str) -> Future[Any]:
        """The same without a second try."""
        with self._lock:
            future = self._futures.get(name)
        return future or self.get(name)

    def _into(self, future: Future[Any], name: str) -> None:
        try:
            future.set_result(self._load(name))
        except Exception as error:  # kept for whoever asks
            future.set_exception(error)
