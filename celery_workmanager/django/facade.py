"""Django's own connection, as SQLAlchemy sees it.

A DB-API connection that ends no transaction: those are Django's. Its cursors are Django's too, so statements are
logged, counted and wrapped as those of the project are; only their errors are the driver's own again, which
SQLAlchemy knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from django.db import Error, connections
from sqlalchemy import Engine, NullPool, create_engine

from celery_workmanager.django.addresses import url_of

#: By Django's `vendor`: what SQLAlchemy's dialect needs to be told.
_OPTIONS: dict[str, dict[str, Any]] = {
    # The style of Django's cursor, which makes question marks of it.
    "sqlite": {"paramstyle": "format"},
    # Asked for with each new connection otherwise; nothing here uses it.
    "postgresql": {"use_native_hstore": False},
}


@cache
def engine_over(alias: str) -> Engine:
    """An engine whose connections are the one that Django has for `alias` in the thread that asks."""
    connection = connections[alias]
    return create_engine(
        f"{url_of(connection).drivername}://",
        creator=lambda: _Connection(connections[alias]),
        poolclass=NullPool,
        pool_reset_on_return=None,
        hide_parameters=True,
        **_OPTIONS.get(connection.vendor, {}),
    )


@contextmanager
def _errors_of_driver() -> Iterator[None]:
    try:
        yield
    except Error as error:
        # Those without a cause are Django's own, such as of a transaction that is broken.
        if error.__cause__ is None:
            raise
        raise error.__cause__ from None


class _Cursor:
    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def execute(self, *args: Any) -> Any:
        with _errors_of_driver():
            return self._cursor.execute(*args)

    def executemany(self, *args: Any) -> Any:
        with _errors_of_driver():
            return self._cursor.executemany(*args)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._cursor)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)


class _Connection:
    def __init__(self, django: Any) -> None:
        with _errors_of_driver():
            django.ensure_connection()
        self._django = django

    def cursor(self, *_: Any, **__: Any) -> _Cursor:
        with _errors_of_driver():
            return _Cursor(self._django.cursor())

    def commit(self) -> None:
        """Django's affair."""

    def rollback(self) -> None:
        """Django's affair."""

    def close(self) -> None:
        """Django's affair."""

    def create_function(self, *_: Any, **__: Any) -> None:
        """SQLite: Django's functions of the same names stay."""

    def add_notice_handler(self, _: Any) -> None:
        """PostgreSQL: one for each use would pile up."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._django.connection, name)
