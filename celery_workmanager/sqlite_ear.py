"""How SQLite's commits are heard: by its change counter, which is looked at when the kernel tells of a write.

Each commit writes to the write-ahead log first, and can be seen when that has reached the disk, of which nobody tells:
so after a write the counter is looked at until it has changed. Where nobody tells of writes it is looked at by time.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from math import inf
from pathlib import Path

from celery_workmanager.green import is_green
from celery_workmanager.inotify import Writes
from celery_workmanager.listener import Listener

__all__ = ("SqliteEar",)

logger = logging.getLogger(__name__)

#: Seconds between two looks by time (some microseconds each, and a processor that wakes up), and when the counter
#: hasn't changed for the time of so many.
LOOK, LAZY_LOOK, QUIET = 0.01, 0.02, 100
#: After a write: seconds until the second look, doubled up to `LOOK`; and how long it is looked so often. If there is
#: no commit by then, or there may be another one, it is looked on, more and more seldom.
SOON, PATIENCE = 0.001, 0.1
#: Looks after writes may be as many as those by time, and so many more at once. When these are used up, commits come
#: all the time: then it is looked by time, until the counter hasn't changed for so many.
BURST, CALM = 10, 10
#: Seconds between two looks when nothing is told, and how many changes in a row that were seen, but not told, show that
#: this file system doesn't tell.
RARELY, UNTOLD = 0.5, 2
#: Ears of a process that are told at most: a user has few of what tells them (128, as a rule), for all programs.
MOST_TOLD = 8

_seats = threading.BoundedSemaphore(MOST_TOLD)


class SqliteEar(Listener):
    """Hears the commits of all other connections to the file."""

    def _listen(self) -> None:
        # A bare connection: this may run a hundred times a second.
        with closing(sqlite3.connect(str(self._database.url.database), isolation_level=None)) as connection:
            counter = _Counter(connection, self._heard)
            self.is_heard = True
            # A thread that waits for the system would stop all greenlets.
            if not is_green():
                try:
                    with _told_writes(Path(os.path.realpath(str(self._database.url.database)) + "-wal")) as writes:
                        self._listen_to(writes, counter)
                except OSError as error:
                    logger.debug("nobody tells of writes to the store: %s", error)
            self._look_by_time(counter)

    def _look_by_time(self, counter: _Counter, longest: float = inf) -> None:
        """Look again and again; until the counter hasn't changed for the time of `longest` looks."""
        unchanged = 0
        while unchanged < longest and not self._stopped.wait(LOOK if unchanged < QUIET else LAZY_LOOK):
            unchanged = 0 if counter.has_changed() else unchanged + 1

    def _listen_to(self, writes: Writes, counter: _Counter) -> None:
        """Look when something was written; returns when it is stopped, or writes turn out not to be told."""
        haste = _Haste()
        pause, untold = LOOK, 0
        with closing(self._wakeful()) as waker:
            waker.watch(writes.descriptor)
            while not self._stopped.is_set():
                waker.wait(pause)
                if writes.take():
                    is_sure, untold = self._look_for_commit(writes, counter, haste), 0
                    pause = RARELY if is_sure else LOOK
                    if haste.is_over:
                        self._look_by_time(counter, CALM)
                        writes.take()
                        pause = LOOK  # the last of these may not be committed yet
                elif not counter.has_changed():
                    pause = min(4 * pause, RARELY)
                elif pause == RARELY and not writes.take():  # it would have come before the commit
                    untold += 1
                    if untold == UNTOLD:
                        logger.debug("this file system doesn't tell of writes: the store is looked at by time")
                        return
                else:
                    pause = LOOK

    def _look_for_commit(self, writes: Writes, counter: _Counter, haste: _Haste) -> bool:
        """Look until what was written is committed, a while at most; returns whether that was surely all of it.

        What was told just before a look that finds a commit may belong to the next one.
        """
        haste.look()
        if counter.has_changed():
            return False
        pause, until = SOON, time.monotonic() + PATIENCE
        while not self._stopped.wait(pause) and time.monotonic() < until:
            is_told = writes.take()
            haste.look()
            if counter.has_changed():
                return not is_told
            pause = min(2 * pause, LOOK)
        return False


class _Counter:
    """SQLite's change counter; each time it is found changed, that is `heard`."""

    def __init__(self, connection: sqlite3.Connection, heard: Callable[[], None]) -> None:
        self._connection, self._heard = connection, heard
        self._seen = self._read()

    def has_changed(self) -> bool:
        """Whether another connection has committed since the last look."""
        version = self._read()
        if version == self._seen:
            return False
        self._seen = version
        self._heard()
        return True

    def _read(self) -> int:
        version: int = self._connection.execute("PRAGMA data_version").fetchone()[0]
        return version


class _Haste:
    """How many looks there have been of late."""

    def __init__(self) -> None:
        self._paid_until = -inf

    def look(self) -> None:
        """Count one."""
        self._paid_until = max(self._paid_until, time.monotonic()) + LOOK

    @property
    def is_over(self) -> bool:
        """Whether there were more than by time, and `BURST`."""
        return self._paid_until - time.monotonic() > BURST * LOOK


@contextmanager
def _told_writes(path: Path) -> Iterator[Writes]:
    if not _seats.acquire(blocking=False):
        raise OSError(f"{MOST_TOLD} ears of this process are told already")
    try:
        with closing(Writes(path)) as writes:
            yield writes
    finally:
        _seats.release()
