"""The bell: who committed something worth a look rings, and nodes that hear it look at once.

PostgreSQL carries the ring itself (NOTIFY, inside the transaction, so that it sounds at the commit and never at a
rollback); on SQLite every process can see cheaply that another one has committed; on MySQL, and behind a pooler that
carries no rings, it can see that something is to be claimed. A lost ring costs one poll interval.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Connection, literal_column, select

from celery_workmanager.database import Database
from celery_workmanager.green import is_green
from celery_workmanager.listener import Listener
from celery_workmanager.sqlite_ear import SqliteEar
from celery_workmanager.tables import work

CHANNEL = "workmanager"
#: Seconds between two looks where each asks the server.
LOOK_AT_SERVER, LONGEST_LOOK = 0.05, 0.5
#: PostgreSQL: seconds between two looks at what has come when nothing is told to have come, and where our threads are
#: greenlets, which the driver knows how to wait in.
_RARELY, _GREEN_SLICE = 5.0, 0.5
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


class _Asker(Listener):
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


class _PostgresqlEar(_Asker):
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
            self._take_rings(driver)
        finally:
            raw.invalidate()

    def _take_rings(self, driver: Any) -> None:
        if is_green():
            while not self._stopped.is_set():
                for _ in driver.notifies(timeout=_GREEN_SLICE, stop_after=1):
                    self._ring_came()
            return
        # By libpq itself: the driver's own way wakes up ten times a second to look whether it was interrupted.
        with closing(self._wakeful()) as waker:
            waker.watch(driver.fileno())
            while not self._stopped.is_set():
                driver.pgconn.consume_input()
                came = False
                while driver.pgconn.notifies() is not None:
                    came = True
                if came:
                    self._ring_came()
                waker.wait(_RARELY)

    def _ring_came(self) -> None:
        # A pooler that lends connections by the transaction lets one listen, and hear nothing.
        self.is_heard = True
        self._heard()


class _MysqlEar(_Asker):
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
        return _Deaf() if database.in_memory else SqliteEar(database, heard)
    if database.is_mysql:
        return _MysqlEar(database, heard)
    if database.dialect == "postgresql" and database.url.get_driver_name() == "psycopg":
        return _PostgresqlEar(database, heard, tries=tries)
    return _Deaf()
