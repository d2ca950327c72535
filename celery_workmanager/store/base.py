"""What every use of a store needs: opening it, one transaction for a change, and the reads."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection

from celery_workmanager import queries, schema
from celery_workmanager.clock import Clock, SystemClock
from celery_workmanager.database import Database, time_of
from celery_workmanager.query import WorkQuery
from celery_workmanager.store import deleting, facts
from celery_workmanager.terms import Terms
from celery_workmanager.work import RunInfo, StopInfo, WorkInfo

T = TypeVar("T")


class StoreBase:
    """One database, and the clock and the terms under which it is written."""

    def __init__(self, database: Database, clock: Clock, terms: Terms, *, name_wait: float) -> None:
        self.database = database
        self.clock = clock
        self.terms = terms
        self._name_wait = name_wait
        self._ready_in: int | None = None
        #: Called after each commit of our own: how the testing kit hears the bell.
        self.after_commit: Callable[[], None] | None = None

    # -- opening ------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """See once in each process that the schema is there."""
        if self._ready_in != os.getpid():
            schema.ensure(self.database)
            self.measure_clock()
            self._ready_in = os.getpid()  # not before: another thread would go on by a clock that isn't set

    def close(self) -> None:
        """Close the connections of this process."""
        self.database.close()
        self._ready_in = None

    def measure_clock(self) -> None:
        """Set the clock by the database's, where it has one of its own and the clock lets itself be set."""
        if self.database.is_sqlite or not isinstance(self.clock, SystemClock):
            return
        with self.database.plain() as connection:
            before = self.clock.monotonic()
            if (found := time_of(connection)) is not None:
                self.clock.measured(before, found, self.clock.monotonic())

    def _write(self, change: Callable[[Connection], T], connection: Connection | None = None) -> T:
        self.open()
        done: T = self.database.run(change, connection)
        if self.after_commit is not None and connection is None:
            self.after_commit()
        return done

    def _write_single(self, change: Callable[[Connection], T]) -> T:
        """The same for a change that is one statement, in no transaction of a caller's."""
        self.open()
        done = self.database.run_single(change)
        if self.after_commit is not None:
            self.after_commit()
        return done

    def _read(self, look: Callable[[Connection], T]) -> T:
        self.open()
        with self.database.plain() as connection:
            return look(connection)

    # -- reading ------------------------------------------------------------------------------------------------

    def work_infos(self, query: WorkQuery) -> list[WorkInfo]:
        """The works that `query` matches."""
        return self._read(lambda conn: queries.work_infos(conn, query))

    def versions(self, query: WorkQuery) -> dict[str, int]:
        """The versions of the works that `query` matches."""
        return self._read(lambda conn: queries.versions(conn, query))

    def runs(self, work_id: str) -> list[RunInfo]:
        """The past runs that are kept of a periodic work, the newest first."""
        return self._read(lambda conn: queries.runs(conn, work_id))

    def stops(self, work_id: str) -> list[StopInfo]:
        """The stops that are kept of a work's runs, the newest first."""
        return self._read(lambda conn: queries.stops(conn, work_id))

    def next_run_times(self, work_id: str, count: int) -> list[int]:
        """When an unfinished work runs next, as far as it is known (microseconds). Raises WorkNotFound."""
        return self._read(lambda conn: queries.next_run_times(conn, work_id, count, self.clock.now()))

    def last_cancel_all(self) -> int:
        """When all work was last cancelled (microseconds; 0: never)."""
        return self._read(queries.last_cancel_all)

    def result_of(self, work_id: str, *, extended: bool = False) -> Any:
        """What a result backend needs of a work."""
        return self._read(lambda conn: queries.result_of(conn, work_id, extended=extended))

    def is_open(self, work_id: str, key: str) -> bool:
        """Whether a work hasn't finished, and nobody has kept a result of it under `key`."""
        return self._read(lambda conn: queries.is_open(conn, work_id, key))

    # -- results of ordinary tasks ----------------------------------------------------------------------------------

    def results(self, keys: Sequence[str]) -> dict[str, str]:
        """The values under `keys` that haven't expired."""
        return self._read(lambda conn: facts.results(conn, keys, self.clock.now()))

    def put_result(self, key: str, value: str, lifetime: int | None) -> None:
        """Keep a value for `lifetime` microseconds (``None``: for ever)."""
        expires = None if lifetime is None else self.clock.now() + lifetime
        self._write(lambda conn: facts.put_result(conn, key, value, expires))

    def forget_result(self, key: str, work_id: str = "") -> None:
        """Delete the value under `key`, and a work if it is finished and no unfinished one depends on it."""
        self._write(lambda conn: deleting.forget(conn, key, work_id))
