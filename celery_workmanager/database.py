"""Connections to the store: how each database is opened, how a transaction begins, which errors are tried again."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, Select, create_engine, text
from sqlalchemy.exc import DBAPIError, TimeoutError  # noqa: A004 - of its pool of connections

from celery_workmanager import mysql, news, postgresql, sqlite, store_url
from celery_workmanager.errors import (
    StatementTooLarge,
    StoreBusy,
    StoreForbidden,
    StoreNotMigrated,
    StoreUnavailable,
    WorkManagerError,
)
from celery_workmanager.events import Listener
from celery_workmanager.fork_gate import FORK_GATE
from celery_workmanager.kept import MOST, Kept
from celery_workmanager.migrations import HEAD

T = TypeVar("T")

_TRIES = 8
#: Seconds after which a server takes back a transaction of ours in which nothing happens.
IDLE_AT_MOST = 10


def idle_within(lease: float) -> int:
    """The same for nodes with leases of `lease` seconds: what one held that was cut off is free when it is lost."""
    return max(1, min(IDLE_AT_MOST, int(lease)))


#: PostgreSQL: serialization failure, deadlock. MariaDB: deadlock, record changed since last read.
_RETRYABLE_STATES = {"40001", "40P01"}
_RETRYABLE_CODES = {1213, 1020}
_LOCK_STATES = {"55P03"}
#: MariaDB: waited too long; MySQL: would have to wait.
_LOCK_CODES = {1205, 3572}
_MISSING_TABLE_STATES = {"42P01"}
_MISSING_TABLE_CODES = {1146}
#: The role may not do this, to a table or to some of its columns.
_FORBIDDEN_STATES = {"42501"}
_FORBIDDEN_CODES = {1142, 1143}
#: The server is gone, shuts down, has no room left (disk, memory, connections), fails, or became a read-only standby.
_AWAY_CLASSES = {"08", "57", "53", "58"}
_AWAY_STATES = {"25006"}
#: A statement that took too long, or was cancelled, says nothing about the server.
_CANCELLED = "57014"
_AWAY_WORDS = ("unable to open", "connect", "disk is full", "disk i/o error", "readonly database")
#: Where a SQLite transaction of the caller's takes the write lock before we read, so that what we read stays true: its
#: driver may not even have begun a transaction yet, and one that has read could be refused the lock later.
_TAKE_WRITE_LOCK = text("UPDATE workmanager_fact SET value = value WHERE key = 'lock'")


class Database:
    """A store's database: one engine for durable writes, one for claims, each rebuilt in a forked child.

    `url` is an SQLAlchemy URL; `lock_wait` is how long a statement may wait for another's lock, in seconds;
    `migrated_by` is the command that makes the tables, when they are somebody else's; `is_pooled`: a pooler lends out
    connections to a PostgreSQL by the transaction (otherwise that is found out).
    """

    #: Whether a call made now takes part in a transaction of the caller's without being given it.
    is_joined = False

    def __init__(
        self,
        url: str | URL,
        *,
        lock_wait: float = 5.0,
        idle: int = IDLE_AT_MOST,
        migrated_by: str | None = None,
        is_pooled: bool = False,
    ) -> None:
        self.url = store_url.parsed(url)
        self.is_pooled = is_pooled
        self.route = postgresql.Route(is_shared=is_pooled)
        self.lock_wait, self.idle = lock_wait, idle
        self.migrated_by = migrated_by
        self.dialect = self.url.get_backend_name()
        self.is_sqlite = self.dialect == "sqlite"
        self.is_mysql = self.dialect in mysql.DIALECTS
        self.in_memory = self.is_sqlite and sqlite.is_in_memory(self.url)
        self._kept: dict[bool, Kept] = {}
        self._pid = os.getpid()
        self._opening = threading.Lock()
        # One connection serves every thread of an in-memory store, so transactions take turns.
        self._turn: Any = threading.RLock() if self.in_memory else nullcontext()
        self._gate: Any = FORK_GATE if self.is_sqlite and not self.in_memory else nullcontext()
        self._explained = _Explaining(self)
        #: Who is told of what transactions have changed, after they committed.
        self.listener: Listener | None = None

    @property
    def shown_url(self) -> str:
        """The URL without its passwords."""
        return store_url.shown(self.url)

    @property
    def migrate_command(self) -> str:
        """What a person runs to bring the tables up to date."""
        return self.migrated_by or "celery -A proj work migrate"

    def apart(self) -> Database:
        """The same database through connections that nobody else's transactions are on."""
        return self

    async def in_thread(self, call: Callable[..., T], *args: Any) -> T:
        """What `call` returns, without blocking the event loop."""
        return await asyncio.to_thread(call, *args)

    def not_migrated(self, found: str | None) -> StoreNotMigrated:
        """The error that says which schema was found (``None``: none), and what to do."""
        return StoreNotMigrated(self.shown_url, found, HEAD, self.migrate_command)

    def engine(self, *, relaxed: bool = False) -> Engine:
        """The engine of this process; `relaxed` commits may be lost in a power cut (claims: they just run again)."""
        return self._connections(relaxed=relaxed).engine

    def _connections(self, *, relaxed: bool) -> Kept:
        relaxed = relaxed and not self.in_memory
        if self._pid != os.getpid():
            self._forget_parents_connections()
        kept = self._kept.get(relaxed)
        if kept is None:
            with self._opening:
                kept = self._kept.get(relaxed) or self._keep(self._open(relaxed=relaxed))
                self._kept[relaxed] = kept
        return kept

    def _keep(self, engine: Engine) -> Kept:
        if self.dialect == "postgresql":
            return Kept(engine, postgresql.prepare, postgresql.is_alive)
        if self.is_sqlite:
            return Kept(engine, sqlite.prepare, most=0 if self.in_memory else MOST)
        # On MariaDB each use goes through the pool, which looks at the connection (`quiet`); on others it asks.
        return Kept(engine, most=0)

    def _forget_parents_connections(self) -> None:
        # Sockets and files of the parent must be neither used nor closed here; locks may have been held at the fork.
        for kept in self._kept.values():
            kept.forget()
        self._kept = {}
        self._opening = threading.Lock()
        self._turn = threading.RLock() if self.in_memory else nullcontext()
        self._pid = os.getpid()

    def _open(self, *, relaxed: bool) -> Engine:
        if self.is_sqlite:
            return sqlite.open_engine(self.url, lock_wait=self.lock_wait, relaxed=relaxed)
        if self.is_mysql:
            # It makes no difference between durable and other commits; `plain` connections are those of this engine.
            return mysql.open_engine(self.url, lock_wait=self.lock_wait, autocommit=relaxed, idle=self.idle)
        if self.dialect == "postgresql":
            return postgresql.open_engine(self.url, self.route, relaxed=relaxed, idle=self.idle)
        return create_engine(self.url, pool_pre_ping=True, hide_parameters=True)

    @contextmanager
    def transaction(self, connection: Connection | None = None, *, relaxed: bool = False) -> Iterator[Connection]:
        """A transaction of our own (`relaxed`: as `engine`), or the caller's `connection`: then it is theirs to end."""
        if connection is not None:
            with self._explained:
                if connection.dialect.name == "sqlite":
                    connection.execute(_TAKE_WRITE_LOCK)
                with mysql.as_guest(connection, self.lock_wait) if is_mysql(connection) else nullcontext():
                    yield connection
            return
        # Elsewhere there is no way to be relaxed but to have no transaction.
        relaxed = relaxed and self.dialect in ("sqlite", "postgresql")
        with self._turn, self._gate, self._explained, self._begun(relaxed=relaxed) as own:
            yield own

    @contextmanager
    def plain(self, *, relaxed: bool = False) -> Iterator[Connection]:
        """A connection on which each statement is a transaction of its own, or might be: for reading."""
        with self._turn, self._gate, self._explained:
            if self.route.is_shared:
                # What the statements need to have set holds in a transaction only.
                with self._begun(relaxed=relaxed) as connection:
                    yield connection
                return
            with self._connections(relaxed=relaxed or self.is_mysql).lent(plain=True) as connection:
                yield connection

    @contextmanager
    def _begun(self, *, relaxed: bool) -> Iterator[Connection]:
        with self._connections(relaxed=relaxed).lent(plain=False) as connection, connection.begin():
            yield connection

    def run(self, work: Callable[[Connection], T], connection: Connection | None = None, *, relaxed: bool = False) -> T:
        """Run `work` in one transaction; on our own connection a conflict with another writer is tried again."""
        if connection is not None:
            with self.transaction(connection):
                if self.listener is not None:
                    news.join(connection, self.listener)
                return work(connection)
        return _tried(lambda: self._run(work, relaxed=relaxed))

    def run_single(self, work: Callable[[Connection], T]) -> T:
        """Run `work`, which is one statement: a transaction that needs none to begin and to end it."""
        return _tried(lambda: self._telling(self.plain(), work))

    def run_relaxed(self, work: Callable[[Connection], T]) -> T:
        """Run `work`, which may be lost in a power cut, and is one statement wherever one can say it."""
        if self.is_mysql or self.route.is_shared:
            return self.run(work, relaxed=True)
        with self.plain(relaxed=True) as connection:
            return work(connection)

    def _run(self, work: Callable[[Connection], T], *, relaxed: bool) -> T:
        return self._telling(self.transaction(relaxed=relaxed), work)

    def _telling(self, opened: AbstractContextManager[Connection], work: Callable[[Connection], T]) -> T:
        """Run `work` on the connection that is `opened`, and tell of what it changed once that is closed."""
        if self.listener is None:
            with opened as own:
                return work(own)
        with opened as own, news.collected(own, self.listener) as told:
            done = work(own)
        told.tell()
        return done

    def explanation(self, error: Exception) -> WorkManagerError | None:
        """What an error of the database's means in our words; ``None``: it stands for itself."""
        found: WorkManagerError | None = None
        if isinstance(error, WorkManagerError):
            pass
        elif _is_missing_table(error):
            found = self.not_migrated(None)
        elif is_lock_timeout(error):
            found = StoreBusy(self.shown_url, self.lock_wait)
        elif self.is_mysql and isinstance(error, DBAPIError) and (sizes := mysql.refused_size(error, self.engine())):
            found = StatementTooLarge(self.shown_url, *sizes)
        elif isinstance(error, TimeoutError):
            found = StoreUnavailable(self.shown_url, f"no free connection: {error}")
        elif is_disconnect(error):
            found = StoreUnavailable(self.shown_url, self._told(error))
        elif _state(error) in _FORBIDDEN_STATES or (self.is_mysql and _code(error) in _FORBIDDEN_CODES):
            found = StoreForbidden(self.shown_url, self._told(error))
        return found

    def _told(self, error: BaseException) -> str:
        """What the driver says, in a line without passwords."""
        return store_url.without_secrets(str(_of_driver(error)).split("\n", maxsplit=1)[0], self.url)

    def close(self) -> None:
        """Close the connections of this process."""
        for kept in self._kept.values():
            if self._pid == os.getpid():
                kept.close()
            else:
                kept.forget()
        self._kept = {}


class _Explaining:
    """Raises the errors of a database in our words (``with``)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __enter__(self) -> None:
        """Nothing yet."""

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, Exception) and (told := self._database.explanation(error)) is not None:
            raise told from error


def _tried(run: Callable[[], T]) -> T:
    """What `run` returns; when it loses against another writer it is tried again."""
    for attempt in range(_TRIES):
        try:
            return run()
        except DBAPIError as error:
            if attempt == _TRIES - 1 or not is_conflict(error):
                raise
            time.sleep(random.uniform(0, 0.005 * 2**attempt))  # noqa: S311 - jitter
    raise AssertionError  # pragma: no cover


_TIME = {
    # clock_timestamp() moves on inside a transaction, now() doesn't.
    "postgresql": text("SELECT extract(epoch FROM clock_timestamp()) * 1000000"),
    # The beginning of this statement; in UTC, since an hour of other zones comes twice a year.
    **dict.fromkeys(mysql.DIALECTS, text("SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))")),
}


def time_of(connection: Connection) -> int | None:
    """The database's clock in microseconds since 1970-01-01 UTC; ``None`` where it has none of its own."""
    asked = _TIME.get(connection.dialect.name)
    return None if asked is None else int(connection.execute(asked).scalar_one())


def is_mysql(connection: Connection) -> bool:
    """Whether it is a connection to MySQL or MariaDB."""
    return connection.dialect.name in mysql.DIALECTS


def locking(statement: Select[Any], connection: Connection, *, skip: bool = False, of: Any = None) -> Select[Any]:
    """`statement` with its rows locked until the transaction ends; `skip` passes over rows that others hold.

    SQLite has one writer at a time, so its transactions hold every row already.
    """
    if connection.dialect.name == "sqlite":
        return statement
    return statement.with_for_update(skip_locked=skip, of=of)


def _of_driver(error: BaseException) -> BaseException:
    """The driver's own error: SQLAlchemy keeps it as ``orig``, a web framework's connection as the cause of its own."""
    return getattr(error, "orig", None) or error.__cause__ or error


def _is_operational(error: BaseException) -> bool:
    return any(each.__name__ == "OperationalError" for each in type(_of_driver(error)).__mro__)


def _state(error: BaseException) -> str | None:
    return getattr(_of_driver(error), "sqlstate", None)


def _code(error: BaseException) -> object:
    arguments = _of_driver(error).args
    return arguments[0] if arguments and isinstance(arguments[0], int) else None


def _message(error: BaseException) -> str:
    return str(_of_driver(error)).lower()


def is_lock_timeout(error: BaseException) -> bool:
    """Whether a statement gave up waiting for a lock that another transaction holds."""
    if not _is_operational(error):
        return False
    known = _state(error) in _LOCK_STATES or _code(error) in _LOCK_CODES
    return known or "database is locked" in _message(error)


def is_conflict(error: BaseException) -> bool:
    """Whether the transaction lost against another one and may simply be run again."""
    if not _is_operational(error):
        return False
    known = _state(error) in _RETRYABLE_STATES or _code(error) in _RETRYABLE_CODES
    return known or "database table is locked" in _message(error)


def is_disconnect(error: BaseException) -> bool:
    """Whether the database could not be reached, was cut off, or takes no writes at present, whatever they are."""
    if getattr(error, "connection_invalidated", False):
        return True
    if (code := _code(error)) is not None:
        return code in mysql.AWAY
    state = _state(error)
    if state is not None:
        return state in _AWAY_STATES or (state[:2] in _AWAY_CLASSES and state != _CANCELLED)
    if not _is_operational(error) or is_lock_timeout(error) or _is_missing_table(error):
        return False
    return any(words in _message(error) for words in _AWAY_WORDS)


def _is_missing_table(error: BaseException) -> bool:
    known = _state(error) in _MISSING_TABLE_STATES or _code(error) in _MISSING_TABLE_CODES
    message = _message(error)
    return "workmanager_" in message and (known or "no such table: workmanager_" in message)
