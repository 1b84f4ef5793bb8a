"""Stop in the middle of the work: each layer and each step asks whether its result is still wanted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Stopped", "stopped_by"]


class Stopped(Exception):
    """What was being computed is not wanted any more."""


@contextmanager
def stopped_by(event: threading.Event) -> Iterator[None]:
    """Within it, the next layer or step (`medfm.progress`) of this thread once `event` is set raises Stopped."""
    from torch.nn.modules.module import register_module_forward_pre_hook

    from medfm.progress import heard_by

    mine = threading.get_ident()

    def wanted(*_: Any) -> None:
        if event.is_set() and threading.get_ident() == mine:
            raise Stopped

    hook = register_module_forward_pre_hook(wanted)
    try:
        with heard_by(wanted):
            yield
    finally:
        hook.remove()
