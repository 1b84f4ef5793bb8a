"""A conversation: the scans that are open, what was said, the masks that were made of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from medfm.assistant.audit import Audit
from medfm.assistant.evidence import Item, Which
from medfm.errors import MedfmError

if TYPE_CHECKING:
    from medfm.scan import Mask, Report, Scan

__all__ = ["Conversation", "Turn"]


@dataclass
class Turn:
    """Something said. A person's turn is words; medfm's grows while it is "running".

    tool: which tool spoke. confidence: 0 to 1. abstained: it declines, `reason` says why, and `text` is only a guess.
    note: what should be known to read the answer aright.
    """

    role: Literal["person", "medfm"]
    text: str = ""
    tool: str | None = None
    state: Literal["waiting", "running", "done", "stopped", "failed"] = "done"
    confidence: float | None = None
    abstained: bool = False
    reason: str | None = None
    note: str | None = None
    evidence: list[Item] = field(default_factory=list)

    def decline(self, reason: str) -> None:
        """The model does not stand by what the turn says, or has nothing to say."""
        self.abstained, self.reason = True, reason

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**vars(self), "evidence": [item.to_dict() for item in self.evidence]}


class Conversation:
    """One person, one current scan, perhaps a prior one. Nothing here is shared with another conversation.

    name: stands for this conversation in the audit log; not the person. user: who has logged in to hold it, if anybody
    had to; a reader, never a patient.
    """

    def __init__(self, name: str, *, audit: Audit | None = None) -> None:
        self.name, self.audit = name, audit or Audit()
        self.user: str | None = None
        self.current: Scan | None = None
        self.prior: Scan | None = None
        self.turns: list[Turn] = []
        self.masks: list[tuple[Which, Mask]] = []
        self.report: Report | None = None
        self.given_up: Report | None = None  # a draft that may be lost: its reader was told so

    def open(self, scan: Scan, *, prior: bool = False) -> None:
        """Put a scan on the table; a new current scan begins a new conversation, without a prior."""
        if prior:
            self.prior = scan
            self.masks = [(which, mask) for which, mask in self.masks if which == "current"]
        else:
            self.current, self.prior, self.report = scan, None, None
            self.turns, self.masks = [], []
        self.log("open", source=scan.source, outcome="prior" if prior else "current", scan=scan)

    def replace_prior(self, scan: Scan) -> None:
        """The same prior scan on another grid; its masks no longer lie on it."""
        self.prior = scan
        self.masks = [(which, mask) for which, mask in self.masks if which == "current"]

    def keep(self, mask: Mask, which: Which = "current") -> int:
        """Put a mask on the table and return its number; what is there already, because it was asked before, stays."""
        for number, (where, old) in enumerate(self.masks):
            if where == which and old.labels == mask.labels and np.array_equal(old.array, mask.array):
                return number
        self.masks.append((which, mask))
        return len(self.masks) - 1

    def close(self) -> None:
        """Forget everything."""
        self.current = self.prior = self.report = None
        self.turns, self.masks = [], []
        self.log("close")

    @property
    def opened(self) -> Scan:
        """The current scan. Raises MedfmError without one."""
        if self.current is None:
            raise MedfmError("Open a scan first.")
        return self.current

    def scan_of(self, which: Which) -> Scan | None:
        """The current or the prior scan."""
        return self.prior if which == "prior" else self.current

    def log(self, action: str, *, scan: Scan | None = None, **about: Any) -> None:
        """One line in the audit log."""
        digest = None if scan is None else scan.content_hash[:12]
        self.audit.write(action, session=self.name, user=self.user, scan=digest, **about)
