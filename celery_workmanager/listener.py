"""A thread that listens for the bell, and survives losing the database."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from celery_workmanager.database import Database
from celery_workmanager.waker import Waker

__all__ = ("Listener",)

logger = logging.getLogger(__name__)

#: Seconds between two tries to listen.
_PAUSE = 1.0


class Listener:
    """A thread that calls `heard` at each ring; what it listens to is its `_listen`, which returns when it is stopped.

    Who waits for the system there, waits by `_waker`, which `stop` wakes.
    """

    is_deaf = False

    def __init__(self, database: Database, heard: Callable[[], None], *, tries: bool = False) -> None:
        self._database = database
        self._heard = heard
        self._tries = tries
        self.is_heard = False
        self._stopped = threading.Event()
        self._waker: Waker | None = None
        self._thread = threading.Thread(target=self._run, name="workmanager-bell", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """End listening; returns when the thread has ended."""
        self._stopped.set()
        if (waker := self._waker) is not None:
            waker.wake()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._listen()
            except Exception as error:  # noqa: BLE001 - the bell is a convenience; polling goes on without it
                self.is_heard = False
                logger.debug("the bell is out of order: %s", error)
                self._stopped.wait(_PAUSE)

    def _listen(self) -> None:
        raise NotImplementedError

    def _wakeful(self) -> Waker:
        """A waker that `stop` wakes from now on; who asks for it closes it."""
        self._waker = waker = Waker()
        if self._stopped.is_set():  # `stop` may have looked for one just before
            waker.wake()
        return waker
