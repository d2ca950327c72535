"""A gate that lets this process fork only while none of its threads is inside an SQLite database.

SQLite keeps the locks of a process in that process's memory. A child that is forked while another thread holds one
inherits it there, where nobody ever releases it, and can write to that database no more: "database is locked"
(https://www.sqlite.org/howtocorrupt.html, "Carrying an open database connection across a fork").
"""

from __future__ import annotations

import os
import threading

__all__ = ("FORK_GATE", "ForkGate")

#: A fork waits at most so many seconds for the transactions of other threads.
PATIENCE = 2.0


class ForkGate:
    """Entered (``with``) around every use of an SQLite database; a fork waits until all have left."""

    def __init__(self) -> None:
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._close, after_in_parent=self._open, after_in_child=self._reset)

    def _reset(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._mine = threading.local()
        self._inside = 0
        self._forking = 0

    def __enter__(self) -> None:
        depth = getattr(self._mine, "depth", 0)
        self._mine.depth = depth + 1
        if depth == 0:
            with self._changed:
                if self._forking:
                    self._changed.wait_for(lambda: not self._forking, PATIENCE)
                self._inside += 1

    def __exit__(self, *_: object) -> None:
        depth = getattr(self._mine, "depth", 0)
        if depth == 0:  # a child that was forked in here: its gate is a new one
            return
        self._mine.depth = depth - 1
        if depth == 1:
            with self._changed:
                self._inside -= 1
                if self._forking:
                    self._changed.notify_all()

    def _close(self) -> None:
        # A thread that forks in the middle of its own transaction can't be helped, and must not wait for itself.
        own = int(getattr(self._mine, "depth", 0) > 0)
        with self._changed:
            self._forking += 1
            self._changed.wait_for(lambda: self._inside <= own, PATIENCE)

    def _open(self) -> None:
        with self._changed:
            self._forking -= 1
            self._changed.notify_all()


#: One for the process: SQLite's locks are the process's too.
FORK_GATE = ForkGate()
