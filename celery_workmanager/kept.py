"""Connections that stay open and ready from one use to the next.

SQLAlchemy's pool gets a connection ready at each use, and tidies it up after it: that takes longer than a short
statement does. Here a connection goes back to the pool only when something has failed on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from sqlalchemy import Connection, Engine

from celery_workmanager.sentences import OURS

#: As many as the pool itself would keep open; more are given back to it.
MOST = 5
#: Those of a parent process, which its child must neither use nor close: nobody lets go of them any more.
_of_parents: list[Connection] = []


def _as_ours(connection: Connection, _is_plain: bool) -> None:
    connection.execution_options(**{OURS: True})


class Lent:
    """A connection in use. A class, since a generator takes half as long as a short statement does."""

    __slots__ = ("_connection", "_kept", "_plain")

    def __init__(self, kept: Kept, plain: bool) -> None:
        self._kept, self._plain = kept, plain

    def __enter__(self) -> Connection:
        self._connection = self._kept.take(self._plain)
        return self._connection

    def __exit__(self, kind: object, _error: object, _traceback: object) -> None:
        if kind is None:
            self._kept.give_back(self._connection)
        else:
            self._connection.close()


class Kept:
    """The connections of an engine that are at rest.

    `prepare` gets one ready for a transaction or (``True``) for statements that are one each; `is_alive` says whether
    one that was at rest may still be used; `most` are kept.
    """

    def __init__(
        self,
        engine: Engine,
        prepare: Callable[[Connection, bool], None] = _as_ours,
        is_alive: Callable[[Connection], bool] = lambda _: True,
        *,
        most: int = MOST,
    ) -> None:
        self.engine = engine
        self._most = most
        self._prepare = prepare
        self._is_alive = is_alive
        self._at_rest: deque[Connection] = deque()

    def lent(self, *, plain: bool) -> Lent:
        """A connection for a transaction, or one that is in none (`plain`): for a ``with``."""
        return Lent(self, plain)

    def take(self, plain: bool) -> Connection:
        """A connection that is ready; whoever takes it gives it back."""
        connection = self._taken()
        try:
            self._prepare(connection, plain)
        except BaseException:
            connection.close()
            raise
        return connection

    def give_back(self, connection: Connection) -> None:
        """Keep a connection on which nothing has failed for the next one."""
        try:
            # SQLAlchemy begins by itself, and what has only been read is ended by nobody.
            if connection.in_transaction():
                connection.rollback()
        except BaseException:
            connection.close()
            raise
        if len(self._at_rest) < self._most and not (connection.closed or connection.invalidated):
            self._at_rest.append(connection)
        else:
            connection.close()

    def _taken(self) -> Connection:
        while self._at_rest:
            try:
                connection = self._at_rest.pop()
            except IndexError:  # another thread was faster
                break
            if self._is_alive(connection):
                return connection
            # What the pool has is looked at there, and replaced.
            connection.close()
        return self.engine.connect()

    def close(self) -> None:
        """Close the connections that are not in use."""
        while self._at_rest:
            self._at_rest.pop().close()
        self.engine.dispose()

    def forget(self) -> None:
        """Leave all connections to the process from which this one was forked."""
        _of_parents.extend(self._at_rest)
        self._at_rest.clear()
        self.engine.dispose(close=False)
