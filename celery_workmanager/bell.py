"""The bell: who committed something worth a look rings, and nodes that hear it look at once.

PostgreSQL carries the ring itself (NOTIFY, inside the transaction, so that it sounds at the commit and never at a
rollback); on SQLite every process can see cheaply that another one has committed; on MySQL, and behind a pooler that
carries no rings, it can see that something is to be claimed. A lost ring costs one poll interval.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Connection, literal_column, select

from celery_workmanager.database import Database
from celery_workmanager.tables import work

logger = logging.getLogger(__name__)

CHANNEL = "workmanager"
#: Seconds between two looks at SQLite's change counter (some microseconds each, and a processor that wakes up), and
#: when it hasn't changed for the time of so many.
LOOK, LAZY_LOOK, QUIET = 0.01, 0.02, 100
#: The same where a look asks the server.
LOOK_AT_SERVER, LONGEST_LOOK = 0.05, 0.5
_PAUSE = 1.0
#: PostgreSQL: rings, as a part of another statement.
RING: ColumnElement[Any] = literal_column(f"pg_notify('{CHANNEL}', '')").label("ring")
_RING = select(RING)
_IS_READY = select(work.c.id).where(work.c.ready_lane.is_not(None)).limit(1)


def ring(connection: Connection) -> None:
    """Ring when the transaction on `connection` commits. On SQLite the commit itself is heard."""
    if connection.dialect.name == "postgresql":
        connection.execute(_RING)


class Ear(Protocol):
    """Something that listens in a thread of its own."""

    #: Whether it has heard the bell since it last began to listen, so that polling may be rare.
    is_heard: bool

    @property
    def is_deaf(self) -> bool:
        """Whether it doesn't hear all that is rung, so that there must be polling, too."""

    def start(self) -> None:
        """Begin to listen."""

    def stop(self) -> None:
        """End listening; returns when the thread has ended."""


class _Listener:
    """A thread that calls `heard` at each ring and survives losing the database."""

    is_deaf = False

    def __init__(self, database: Database, heard: Callable[[], None], *, tries: bool = False) -> None:
        self._database = database
        self._heard = heard
        self._tries = tries
        self.is_heard = False
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
                self.is_heard = False
                logger.debug("the bell is out of order: %s", error)
                self._stopped.wait(_PAUSE)

    def _listen(self) -> None:
        raise NotImplementedError

    def _ask(self, connected: Callable[[], AbstractContextManager[Connection]]) -> None:
        """Look whether something is to be claimed; what makes nothing claimable (a cancel) is found by polling."""
        pause, seen = LOOK_AT_SERVER, None
        while not self._stopped.wait(pause):
            with connected() as connection:
                ready = connection.execute(_IS_READY).scalar()
            if ready is not None:
                self._heard()
            # Nodes may have more than they can do, for hours: then the same work is still there at the next look.
            pause = min(2 * pause, LONGEST_LOOK) if ready is not None and ready == seen else LOOK_AT_SERVER
            seen = ready


class _SqliteEar(_Listener):
    def _listen(self) -> None:
        # A bare connection: this runs a hundred times a second.
        connection = sqlite3.connect(str(self._database.url.database), isolation_level=None)
        try:
            seen = self._version(connection)
            self.is_heard = True
            unchanged = 0
            while not self._stopped.wait(LOOK if unchanged < QUIET else LAZY_LOOK):
                version = self._version(connection)
                unchanged += 1
                if version != seen:
                    seen, unchanged = version, 0
                    self._heard()
        finally:
            connection.close()

    @staticmethod
    def _version(connection: sqlite3.Connection) -> int:
        version: int = connection.execute("PRAGMA data_version").fetchone()[0]
        return version


class _PostgresqlEar(_Listener):
    @property
    def is_deaf(self) -> bool:  # type: ignore[override]
        """Whether a pooler is in between, which listens to nothing for us."""
        return bool(self._database.route.is_shared)

    def _listen(self) -> None:
        raw: Any = self._database.engine().raw_connection()
        if self.is_deaf:
            raw.close()
            self._ask(lambda: self._database.plain(relaxed=True))
            return
        try:
            driver = raw.driver_connection
            driver.autocommit = True
            driver.execute(f"LISTEN {CHANNEL}")
            self._heard()  # something may have been rung before we listened
            if self._tries:
                with self._database.plain() as other:
                    ring(other)
            while not self._stopped.is_set():
                for _ in driver.notifies(timeout=0.5, stop_after=1):
                    # A pooler that lends connections by the transaction lets one listen, and hear nothing.
                    self.is_heard = True
                    self._heard()
        finally:
            raw.invalidate()


class _MysqlEar(_Listener):
    is_deaf = True

    def _listen(self) -> None:
        with self._database.plain() as connection:
            self._ask(lambda: nullcontext(connection))


class _Deaf:
    is_deaf = True
    is_heard = False

    def start(self) -> None:
        """Nothing to listen to: the store polls."""

    def stop(self) -> None:
        """Nothing to end."""


def listen(database: Database, heard: Callable[[], None], *, tries: bool = False) -> Ear:
    """An ear for the store's bell; it calls `heard` from a thread of its own.

    `tries`: it rings once by itself, to know soon whether it hears.
    """
    if database.is_sqlite:
        return _Deaf() if database.in_memory else _SqliteEar(database, heard)
    if database.is_mysql:
        return _MysqlEar(database, heard)
    if database.dialect == "postgresql" and database.url.get_driver_name() == "psycopg":
        return _PostgresqlEar(database, heard, tries=tries)
    return _Deaf()
