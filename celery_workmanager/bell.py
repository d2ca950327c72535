"""The bell: who committed something worth a look rings, and nodes that hear it look at once.

PostgreSQL carries the ring itself (NOTIFY, inside the transaction, so that it sounds at the commit and never at a
rollback); on SQLite every process can see cheaply that another one has committed. A lost ring costs one poll interval.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, Protocol

from sqlalchemy import Connection, func, text

from celery_workmanager.database import Database

logger = logging.getLogger(__name__)

CHANNEL = "workmanager"
#: Seconds between two looks at SQLite's change counter (some microseconds each).
LOOK = 0.01
_PAUSE = 1.0
#: The same as a column of what another statement returns, for a statement that is a transaction by itself.
RING = func.pg_notify(CHANNEL, "")
_RING = text(f"SELECT pg_notify('{CHANNEL}', '')")


def ring(connection: Connection) -> None:
    """Ring when the transaction on `connection` commits. On SQLite the commit itself is heard."""
    if connection.dialect.name == "postgresql":
        connection.execute(_RING)


class Ear(Protocol):
    """Something that listens in a thread of its own."""

    #: Whether it hears nothing at all, so that there is only polling.
    is_deaf: bool

    def start(self) -> None:
        """Begin to listen."""

    def stop(self) -> None:
        """End listening; returns when the thread has ended."""


class _Listener:
    """A thread that calls `heard` at each ring and survives losing the database."""

    is_deaf = False

    def __init__(self, database: Database, heard: Callable[[], None]) -> None:
        self._database = database
        self._heard = heard
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="workmanager-bell", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._listen()
            except Exception as error:  # noqa: BLE001 - the bell is a convenience; polling goes on without it
                logger.debug("the bell is out of order: %s", error)
                self._stopped.wait(_PAUSE)

    def _listen(self) -> None:
        raise NotImplementedError


class _SqliteEar(_Listener):
    def _listen(self) -> None:
        # A bare connection: this runs a hundred times a second.
        connection = sqlite3.connect(str(self._database.url.database), isolation_level=None)
        try:
            seen = self._version(connection)
            while not self._stopped.wait(LOOK):
                version = self._version(connection)
                if version != seen:
                    seen = version
                    self._heard()
        finally:
            connection.close()

    @staticmethod
    def _version(connection: sqlite3.Connection) -> int:
        version: int = connection.execute("PRAGMA data_version").fetchone()[0]
        return version


class _PostgresqlEar(_Listener):
    def _listen(self) -> None:
        engine = self._database.engine()
        raw: Any = engine.raw_connection()
        try:
            driver = raw.driver_connection
            driver.autocommit = True
            driver.execute(f"LISTEN {CHANNEL}")
            self._heard()  # something may have been rung before we listened
            while not self._stopped.is_set():
                for _ in driver.notifies(timeout=0.5, stop_after=1):
                    self._heard()
        finally:
            raw.invalidate()


class _Deaf:
    is_deaf = True

    def start(self) -> None:
        """Nothing to listen to: the store polls."""

    def stop(self) -> None:
        """Nothing to end."""


def listen(database: Database, heard: Callable[[], None]) -> Ear:
    """An ear for the store's bell; it calls `heard` from a thread of its own."""
    if database.is_sqlite:
        return _Deaf() if database.in_memory else _SqliteEar(database, heard)
    if database.dialect == "postgresql" and database.url.get_driver_name() == "psycopg":
        return _PostgresqlEar(database, heard)
    return _Deaf()
