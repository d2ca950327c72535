"""A thread that tells others, in order, so that whoever has something to tell never waits for them."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

__all__ = ("Messenger",)

logger = logging.getLogger(__name__)


class Messenger:
    """Makes calls in a thread of its own, which begins with the first and ends with the process.

    `most` calls may wait; more of them are dropped. A process that was forked meanwhile has a thread of its own.
    """

    def __init__(self, name: str, most: int = 10_000) -> None:
        self._name, self._most = name, most
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._pid = os.getpid()
        self._calls: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def post(self, call: Callable[[], object]) -> bool:
        """Make this call soon; ``False`` when too many wait."""
        if self._pid != os.getpid():
            self._begin_anew()
        if self._calls.qsize() >= self._most:
            return False
        self._calls.put(call)
        if self._thread is None:
            with self._starting:
                self._start()
        return True

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, args=(self._calls,), name=self._name, daemon=True)
            self._thread.start()

    def flush(self, seconds: float) -> bool:
        """Wait until all has been told that was posted, at most so long; whether it was."""
        if self._thread is None or self._pid != os.getpid():
            return True
        told = threading.Event()
        self._calls.put(told.set)
        return told.wait(seconds)

    def _run(self, calls: SimpleQueue[Callable[[], object]]) -> None:
        while True:
            call = calls.get()
            try:
                call()
            except Exception as error:  # noqa: BLE001  # whatever those who are told, or the way to them, raise
                logger.debug("%s: not told: %r", self._name, error)
