"""Who has what open: one session a tab, its files in a folder of its own, and one worker that asks the model."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

from medfm.assistant import Audit, Call, Conversation, Turn
from medfm.assistant.stopping import stopped_by

Key = tuple[str, str]


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A folder for scans, which ends with the server. Those that killed servers left behind are deleted first: the
    lock in each is its server's for as long as that lives."""
    from filelock import FileLock

    prefix = "medfm-chat-"
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # it is locked, or somebody else's
            if not left.is_symlink() and (left / "lock").is_file():
                with FileLock(left / "lock", timeout=0):
                    shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix) as folder, FileLock(Path(folder) / "lock"):
        yield Path(folder)


class Session:
    """One tab: its conversation, what it uploaded, what the viewer may fetch, and whether its answer is to stop."""

    def __init__(self, folder: Path, *, audit: Audit) -> None:
        self.token = secrets.token_urlsafe(24)  # part of every address of this session's images; cannot be guessed
        self.folder = folder / self.token
        self.folder.mkdir(mode=0o700, parents=True)
        self.talk = Conversation(secrets.token_hex(4), audit=audit)
        self.files: list[str] = []
        self.path: str | None = None
        self.source: Path | None = None  # a demo scan's file
        self.choices: list[str] = []  # the series of what was taken last, where it holds several
        self.series: str | None = None  # UID of the one that was chosen
        self.origin: tuple[list[str | Path], str | None] = ([], None)  # files and UID of the current scan, for exports
        self.views: dict[str, dict[str, Any]] = {}
        self.masks: list[tuple[Any, dict[str, Any]]] = []  # those on the screen, and how the viewer gets them
        self.numbers = count()  # of their files: a name is never used twice
        self.marked: Call | None = None  # what was pointed at in the viewer and waits for its answer
        self.stopped = threading.Event()
        self.answering: Turn | None = None  # the person's turn that is being answered
        self.taken: Path | None = None  # folder of the last upload
        self.home: Path | None = None  # folder of the upload that is the current scan
        self.seen = time.monotonic()
        self.tab = ""  # the browser's own name of the tab, which a reload does not change
        self.left: float | None = None  # when its page was closed, or began to be loaded again
        self.ticket: Future[None] | None = None  # the answer that was asked for last

    def take(self, files: list[str]) -> None:
        """Move an upload into the session's folder, where it ends with the session. The one before it goes, unless it
        is the scan that is open: what comes now may be refused, and exports refer to those files."""
        if self.taken is not None and self.taken != self.home:
            shutil.rmtree(self.taken, ignore_errors=True)
        self.taken = self.folder / f"upload-{next(self.numbers)}"
        self.files, self.path, self.source, self.choices, self.series = [], None, None, [], None
        for number, file in enumerate(files):
            target = self.taken / str(number) / Path(file).name
            target.parent.mkdir(parents=True)
            shutil.move(file, target)
            self.files.append(str(target))

    def opened(self) -> None:
        """What was taken last has become the current scan."""
        for old in (self.home, self.folder / "source"):
            if old is not None and old != self.taken:
                shutil.rmtree(old, ignore_errors=True)
        self.home = self.taken
        self.origin = ([self.source or self.path or ""] if self.source or self.path else [*self.files]), self.series

    def begin(self) -> None:
        """A new conversation. What still runs for the one before stops, and keeps its results to itself."""
        self.stopped.set()
        before, self.stopped = self.talk, threading.Event()
        self.talk = Conversation(before.name, audit=before.audit)
        self.talk.user = before.user
        self.masks, self.marked = [], None

    def close(self) -> None:
        """Delete its files and forget its conversation."""
        old = self.talk
        self.begin()
        old.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class Sessions:
    """All sessions of the page, by cookie and tab.

    Those end that nobody uses for `idle` seconds, whose page was closed for `grace` seconds (a page that is loaded
    again comes back before), and the oldest one when there would be more than `limit`.
    """

    def __init__(
        self, folder: Path, *, audit: Audit | None = None, idle: float = 3600, grace: float = 60, limit: int = 32
    ) -> None:
        self.folder, self.audit, self.idle, self.grace, self.limit = folder, audit or Audit(), idle, grace, limit
        self._open: dict[Key, Session] = {}
        self._lock = threading.Lock()

    def get(self, key: Key) -> Session:
        """The session of a tab, made when it is first seen."""
        with self._lock:
            session = self._open.pop(key, None) or Session(self.folder, audit=self.audit)
            session.seen = time.monotonic()
            self._open[key] = session  # the dictionary's order is that of last use
            leaving = self._over(session.seen)
            leaving += list(self._open)[: max(0, len(self._open) - len(leaving) - self.limit)]
            gone = [self._open.pop(k) for k in dict.fromkeys(leaving)]
        for old in gone:
            old.close()
        return session

    def find(self, token: str, cookie: str) -> Session | None:
        """The session with that token, for the browser that it belongs to."""
        with self._lock:
            for (owner, _), session in self._open.items():
                if secrets.compare_digest(session.token.encode(), token.encode()):
                    return session if secrets.compare_digest(owner.encode(), cookie.encode()) else None
        return None

    def leave(self, key: Key) -> None:
        """The page of a tab was closed, or is loaded again."""
        with self._lock:
            if key in self._open:
                self._open[key].left = time.monotonic()

    def back(self, key: Key, tab: str) -> Session | None:
        """The session that the same tab of the same browser has left, now under `key`; None where there is none."""
        with self._lock:
            for old, session in self._open.items():
                if old[0] == key[0] and session.tab == tab and session.left is not None:
                    session.left, session.seen = None, time.monotonic()
                    self._open[key] = self._open.pop(old)
                    return session
        return None

    def _over(self, now: float) -> list[Key]:
        left = [k for k, s in self._open.items() if s.left is not None and s.left <= now - self.grace]
        return [k for k, s in self._open.items() if k in left or s.seen < now - self.idle]

    def sweep(self) -> None:
        """End what has been idle, or closed, for too long."""
        with self._lock:
            gone = [self._open.pop(k) for k in self._over(time.monotonic())]
        for session in gone:
            session.close()


class Desk:
    """The one worker in front of the model: requests wait in line, and each knows how many are before it."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._line: list[Future[Any]] = []
        self._lock = threading.Lock()

    def submit(self, session: Session, turns: Callable[[], Iterator[Turn]]) -> Future[None]:
        """Run a conversation's turns to their end, or until the session is stopped."""

        stopped = session.stopped

        def work() -> None:
            running = turns()
            with stopped_by(stopped):
                for _ in running:
                    if stopped.is_set():
                        running.close()  # type: ignore[attr-defined]
                        break

        stopped.clear()
        with self._lock:
            self._line = [ticket for ticket in self._line if not ticket.done()]
            ticket = self._worker.submit(work)
            self._line.append(ticket)
        return ticket

    def ahead(self, ticket: Future[None]) -> int:
        """How many are served before this one."""
        with self._lock:
            before = self._line[: self._line.index(ticket)] if ticket in self._line else []
            return sum(not other.done() for other in before)
