"""SQLite: how the file is opened, and how its transactions begin."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.pool import StaticPool

from celery_workmanager.errors import StoreUnavailable
from celery_workmanager.green import PatientConnection, is_green
from celery_workmanager.sentences import OURS, say
from celery_workmanager.store_url import shown

#: Execution option that keeps a connection of ours out of any transaction.
_PLAIN = "workmanager_plain"


def is_in_memory(url: URL) -> bool:
    """Whether there is no file: the store ends with its connection."""
    return url.database in (None, "", ":memory:")


def open_engine(url: URL, *, lock_wait: float, relaxed: bool) -> Engine:
    """An engine whose commits are on the disk or, if `relaxed`, may be lost in a power cut. Raises StoreUnavailable."""
    options: dict[str, Any] = {
        "connect_args": {"timeout": lock_wait, "check_same_thread": False},
        "hide_parameters": True,
    }
    if is_green():
        options["connect_args"]["factory"] = PatientConnection
    in_memory = is_in_memory(url)
    if in_memory:
        options["poolclass"] = StaticPool
    else:
        _make_folder(url)
    engine = create_engine(url, **options)

    def connected(dbapi: Any, _record: Any) -> None:
        dbapi.isolation_level = None  # transactions begin where we say so, not where the driver guesses
        if not in_memory:
            _use_wal(dbapi, patience=lock_wait)
            # FULL flushes each commit (NORMAL would lose the last ones in a power cut).
            dbapi.execute(f"PRAGMA synchronous={'NORMAL' if relaxed else 'FULL'}")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", _begin_immediate)
    return engine


def _make_folder(url: URL) -> None:
    try:
        Path(str(url.database)).expanduser().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(shown(url), error) from error


def _use_wal(dbapi: Any, *, patience: float) -> None:
    # Two that make the same new file a WAL one are told "locked" at once: SQLite asks no busy handler for this change
    # (https://sqlite.org/c3ref/busy_handler.html), so the wait is ours.
    until = time.monotonic() + patience
    while True:
        try:
            dbapi.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return


def _begin_immediate(connection: Connection) -> None:
    # A transaction that reads first and writes later could not be granted the write lock any more.
    if not connection.get_execution_options().get(_PLAIN):
        say(connection, "BEGIN IMMEDIATE")


def prepare(connection: Connection, is_plain: bool) -> None:
    """Get a connection of ours ready for a transaction or, `is_plain`, for statements that are one each."""
    options = connection.get_execution_options()
    if OURS not in options or options[_PLAIN] is not is_plain:
        connection.execution_options(**{OURS: True, _PLAIN: is_plain})
