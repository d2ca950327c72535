"""Processes whose threads are greenlets (gevent's monkey patch): whoever blocks there stops everybody."""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Callable
from time import sleep
from typing import Any, TypeVar

__all__ = ("PatientConnection", "is_green", "off_loop")

_T = TypeVar("_T")

#: Seconds between two tries to get SQLite's lock: at first, and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.02


def is_green() -> bool:
    """Whether threads are greenlets here, ours too: what is patched after we were imported doesn't count."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not all(map(monkey.is_module_patched, ("queue", "threading", "time"))):
        return False
    return sleep is time.sleep


def off_loop(function: Callable[[], _T]) -> Callable[[], _T]:
    """Return `function` as one that stops no other greenlet, for what gevent can't wait for: files."""
    if not is_green():
        return function
    from gevent.threadpool import ThreadPool  # noqa: PLC0415  # only in a process of greenlets

    def attempt() -> tuple[Any, BaseException | None]:
        try:
            return function(), None
        except BaseException as error:  # noqa: BLE001  # it belongs to the greenlet that waits
            return None, error

    pool = ThreadPool(1)

    def wait() -> _T:
        value, raised = pool.apply(attempt)
        if raised is not None:
            raise raised
        found: _T = value
        return found

    return wait


class PatientConnection(sqlite3.Connection):
    """A connection that waits for SQLite's lock in Python.

    SQLite's own way of waiting would stop every greenlet, the one that holds the lock too.
    """

    def __init__(self, database: Any, timeout: float = 5.0, **options: Any) -> None:
        super().__init__(database, timeout=0.0, **options)
        self.patience = timeout

    def cursor(self, factory: Any = None) -> Any:
        """Return a cursor that waits too."""
        return super().cursor(factory or _PatientCursor)


class _PatientCursor(sqlite3.Cursor):
    def execute(self, *statement: Any) -> Any:
        pause, until = _FIRST_PAUSE, None
        while True:
            try:
                return super().execute(*statement)
            except sqlite3.OperationalError as error:
                connection: Any = self.connection
                # Inside a transaction only its end would free what others wait for.
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or connection.in_transaction:
                    raise
                until = until or time.monotonic() + connection.patience
                if time.monotonic() >= until:
                    raise
            sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
