"""Inserts that meet rows which exist already, in the words of each database."""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.dialects import mysql, postgresql, sqlite


def insert_or_ignore(table: Any, connection: Connection) -> Any:
    """An INSERT for `table` that passes over rows whose key exists."""
    dialect = connection.dialect.name
    if dialect in ("mysql", "mariadb"):
        return mysql.insert(table).prefix_with("IGNORE")
    module = postgresql if dialect == "postgresql" else sqlite
    return module.insert(table).on_conflict_do_nothing()


def upsert(table: Any, connection: Connection, *columns: str) -> Any:
    """An INSERT for `table` that writes `columns` over a row whose key exists.

    It locks the row even if nothing changes, and a caller's transaction that reads an older snapshot is refused.
    """
    return _upsert(table, connection.dialect.name, columns)


@cache
def _upsert(table: Any, dialect: str, columns: tuple[str, ...]) -> Any:
    if dialect in ("mysql", "mariadb"):
        given = mysql.insert(table)
        return given.on_duplicate_key_update({column: given.inserted[column] for column in columns})
    new: Any = (postgresql if dialect == "postgresql" else sqlite).insert(table)
    changes = {column: new.excluded[column] for column in columns}
    return new.on_conflict_do_update(index_elements=list(table.primary_key), set_=changes)
