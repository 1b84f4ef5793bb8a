"""How far long work has come, told to whoever waits for it, who may raise to end it: a terminal, a page, or nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["counting", "heard_by"]

Listener = Callable[[int, int], None]
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Within it, `listener(done, total)` hears of each step of the work that is done in this thread."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def counting(total: int) -> Callable[..., None]:
    """What work of `total` steps calls after each of them, or with the number of those that were done."""
    tell, done = _listener.get(), 0

    def step(by: int = 1) -> None:
        nonlocal done
        done += by
        if tell is not None:
            tell(done, total)

    return step
