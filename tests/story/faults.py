"""A database that breaks at a chosen commit: just before it has reached the server, or just after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, select

from celery_workmanager.database import Database
from celery_workmanager.tables import metadata

T = TypeVar("T")


class Broken(Exception):
    """The connection, or the whole process, is gone in the middle of a call."""


@dataclass
class Fuse:
    """Burns at a commit of the next call that has so many."""

    commits: int
    #: Whether that commit reaches the server: the caller can't know.
    reaches: bool


class FaultyDatabase(Database):
    """Breaks where its fuse says, in calls that are made through `call`."""

    fuse: Fuse | None = None
    _left: int | None = None

    def call(self, call: Callable[[], T]) -> T:
        """Return what `call` does. Raises Broken if the fuse burns in it; it stays for the next call otherwise."""
        self._left = None if self.fuse is None else self.fuse.commits
        try:
            return call()
        finally:
            self._left = None

    @contextmanager
    def transaction(self, connection: Connection | None = None, *, relaxed: bool = False) -> Iterator[Connection]:
        if connection is not None:
            with super().transaction(connection, relaxed=relaxed) as theirs:
                yield theirs
            return
        with super().transaction(relaxed=relaxed) as own:
            yield own
            self._commit(reaches=False)
        self._commit(reaches=True)

    @contextmanager
    def plain(self, *, relaxed: bool = False) -> Iterator[Connection]:
        # Each statement is a transaction of its own; where one writes, it is the last.
        self._commit(reaches=False)
        with super().plain(relaxed=relaxed) as connection:
            yield connection
        self._commit(reaches=True)

    def _commit(self, *, reaches: bool) -> None:
        if self._left is None or self.fuse is None or self.fuse.reaches is not reaches:
            return
        self._left -= 1
        if self._left < 0:
            self.fuse = self._left = None
            raise Broken

    def contents(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of every table, in order."""
        with super().plain() as connection:
            return {
                table.name: sorted((tuple(row) for row in connection.execute(select(table))), key=repr)
                for table in metadata.sorted_tables
            }
