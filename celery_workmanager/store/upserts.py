"""Inserts of many rows, and such as meet rows which exist already, in the words of each database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from functools import cache, lru_cache
from typing import Any

from sqlalchemy import Connection, String, Text, bindparam, insert, select
from sqlalchemy.dialects import mysql, postgresql, sqlite

from celery_workmanager.sentences import Sentence
from celery_workmanager.store import lists

#: Fewer rows than these are not worth a statement of their own shape.
_FEW = 4
#: How many rows one statement takes.
_AT_ONCE = 1000


def insert_or_ignore(table: Any, connection: Connection) -> Any:
    """An INSERT for `table` that passes over rows whose key exists."""
    return _insert_or_ignore(table, connection.dialect.name)


def _insert_or_ignore(table: Any, dialect: str) -> Any:
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


class Meeting(Enum):
    """What becomes of a new row whose key exists."""

    REFUSED = "the statement fails"
    IGNORED = "it is passed over"
    LOCKED = "that one is locked, see `upsert`"


def insert_many(
    connection: Connection, table: Any, rows: Sequence[Mapping[str, Any]], meeting: Meeting = Meeting.REFUSED
) -> None:
    """Insert `rows`, which have the same columns, in their order."""
    if connection.dialect.name != "postgresql" or len(rows) < _FEW:
        if rows:
            _of_rows(table, connection.dialect.name, meeting).say_each(connection, rows)
        return
    first, *others = rows[0]
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        # Most columns of new works are the same in all of them.
        given: dict[str, Any] = {first: lists.joined([row[first] for row in some])}
        same: list[str] = []
        for name in others:
            values = [row[name] for row in some]
            if values.count(values[0]) == len(values):
                given[name] = values[0]
                same.append(name)
            else:
                given[name] = lists.joined(values)
        _of_columns(table, tuple(given), tuple(same), meeting).say(connection, given)


@cache
def _of_rows(table: Any, dialect: str, meeting: Meeting) -> Sentence:
    if meeting is Meeting.REFUSED:
        return Sentence(insert(table))
    if meeting is Meeting.IGNORED:
        return Sentence(_insert_or_ignore(table, dialect))
    return Sentence(_upsert(table, dialect, tuple(table.primary_key.columns.keys())))


@lru_cache(maxsize=256)
def _of_columns(table: Any, names: tuple[str, ...], same: tuple[str, ...], meeting: Meeting) -> Sentence:
    """An INSERT for any number of rows on PostgreSQL: a parameter is a column's list, or the value of all its rows."""
    kinds = {name: plain_type(table.c[name].type) for name in names}
    given = lists.table_of({name: kind for name, kind in kinds.items() if name not in same})
    chosen = (bindparam(name, type_=kinds[name]) if name in same else given.c[name] for name in names)
    statement = postgresql.insert(table).from_select(list(names), select(*chosen))
    if meeting is Meeting.IGNORED:
        statement = statement.on_conflict_do_nothing()
    if meeting is Meeting.LOCKED:
        key = table.primary_key.columns
        changes = {each.name: statement.excluded[each.name] for each in key}
        statement = statement.on_conflict_do_update(index_elements=list(key), set_=changes)
    return Sentence(statement)


def plain_type(kind: Any) -> Any:
    """The type of a parameter for a column of this type, on PostgreSQL."""
    # A cast to VARCHAR(n) would cut what is too long; an INSERT refuses it.
    return Text if isinstance(kind, String) else type(kind)
