"""Statements that are said often and short: compiled once, then given to the driver itself.

SQLAlchemy takes a hundred microseconds to execute a statement, most of it for what we don't use: types to convert,
results by names, events. A cursor of SQLite's has answered after ten.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, Executable
from sqlalchemy.exc import DBAPIError, InvalidRequestError

from celery_workmanager.prepared import Prepared, with_literals

#: Execution option of connections on which nobody but us says anything, and which are begun and ended by us.
OURS = "workmanager_ours"
_log = logging.getLogger("sqlalchemy.engine")


class Sentence:
    """A statement whose parameters are the values by their names, none of them a list and none to be converted."""

    def __init__(self, statement: Executable) -> None:
        self._statement: Any = statement
        self._spoken: dict[tuple[str, ...], _Spoken] = {}

    def say(self, connection: Connection, values: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """Execute it; returns its rows. Raises DBAPIError.

        On a connection of a caller's, and as long as somebody listens to statements, SQLAlchemy executes it.
        """
        if not _is_unheard(connection):
            result = connection.execute(self._statement, values)
            return result.all() if result.returns_rows else ()
        spoken = self._in_words_of(connection, values)
        if spoken.prepared is not None:
            try:
                if (rows := spoken.prepared.say(connection, spoken.every(values))) is not None:
                    return rows
            except connection.dialect.loaded_dbapi.Error as error:
                raise _as_sqlalchemys(error, connection, None, spoken.text, values) from error
        said: Sequence[Sequence[Any]] = _said(connection, spoken.text, spoken.parameters(values))
        return said

    def change(self, connection: Connection, values: Mapping[str, Any]) -> int:
        """Execute it, which returns no rows; returns how many it has changed. Raises DBAPIError."""
        if not _is_unheard(connection):
            return int(connection.execute(self._statement, values).rowcount)
        spoken = self._in_words_of(connection, values)
        return int(_said(connection, spoken.text, spoken.parameters(values), read=_ROWCOUNT))

    def say_each(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Execute it, which returns nothing, for each of `rows`, all with the same names. Raises DBAPIError."""
        if not _is_unheard(connection):
            connection.execute(self._statement, rows)
            return
        spoken = self._in_words_of(connection, rows[0])
        _said(connection, spoken.text, list(map(spoken.parameters, rows)), many=True)

    def _in_words_of(self, connection: Connection, values: Mapping[str, Any]) -> _Spoken:
        key = (connection.dialect.name, *values)
        spoken = self._spoken.get(key)
        if spoken is None:
            spoken = self._spoken[key] = _Spoken(self._statement, connection, values)
        return spoken


class _Spoken:
    """A statement in the words of one dialect, for values of these names."""

    def __init__(self, statement: Any, connection: Connection, values: Mapping[str, Any]) -> None:
        # A list that stands in the statement itself is rendered; one among the values would be missing.
        spelt = {"render_postcompile": True}
        try:
            compiled = statement.compile(dialect=connection.dialect, column_keys=list(values), compile_kwargs=spelt)
        except InvalidRequestError as error:
            raise TypeError(f"expected a statement without lists, got: {statement}") from error
        self.text = str(compiled)
        self._order = tuple(compiled.positiontup) if compiled.positional else None
        # Values that stand in the statement itself.
        self._own = {name: value for name, value in compiled.params.items() if name not in values}
        self.prepared: Prepared | None = None
        if (connection.dialect.name, connection.dialect.driver) == ("postgresql", "psycopg"):
            # There they become words: a plan for any values should know those that never differ.
            self.text, self._own = with_literals(self.text, self._own), {}
            self.prepared = Prepared(self.text)

    def every(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**self._own, **values} if self._own else values

    def parameters(self, values: Mapping[str, Any]) -> Any:
        every = self.every(values)
        return every if self._order is None else tuple(map(every.__getitem__, self._order))


def say(connection: Connection, words: str) -> None:
    """Execute `words`, which have no parameters and no rows. Raises DBAPIError."""
    if _is_unheard(connection):
        _said(connection, words, ())
    else:
        connection.exec_driver_sql(words)


def _can_send_ahead(connection: Connection) -> bool:
    # Not behind a pooler: not every one of them can.
    if (connection.dialect.name, connection.dialect.driver) != ("postgresql", "psycopg"):
        return False
    driver: Any = connection.connection.driver_connection
    return _is_unheard(connection) and driver.prepare_threshold is not None and _knows_pipelines()


@contextmanager
def sending(connection: Connection) -> Iterator[bool]:
    """Sentences said inside, which return nothing, are sent ahead if they can be: answers are awaited at the end.

    So the server works beside us. The first error is raised by a later sentence or at the end; what was sent after the
    one that failed isn't executed. Gives whether they are sent ahead.
    """
    if not _can_send_ahead(connection):
        yield False
        return
    driver: Any = connection.connection.driver_connection
    failed: Exception | None = None
    try:
        with driver.pipeline():
            try:
                yield True
            except DBAPIError as error:
                failed = error  # if the driver saw it leave, it would warn of the answers that follow
    except connection.dialect.loaded_dbapi.Error as error:
        failed = failed or _as_sqlalchemys(error, connection, None, "", ())
    except Exception:
        raise
    except BaseException:
        # Answers may be still to come, and nobody waits for them.
        connection.invalidate()
        raise
    if failed is not None:
        raise failed


@cache
def _knows_pipelines() -> bool:
    """Whether psycopg and its libpq can send a statement before the last one is answered."""
    from psycopg import Pipeline  # noqa: PLC0415 - only where PostgreSQL is spoken to

    return Pipeline.is_supported()


def _is_unheard(connection: Connection) -> bool:
    if OURS not in connection.get_execution_options() or _log.isEnabledFor(logging.INFO):
        return False
    told: Any = connection.engine.dispatch
    return not (told.before_cursor_execute or told.after_cursor_execute or told.before_execute or told.after_execute)


def _rows(cursor: Any) -> Sequence[Sequence[Any]]:
    return cursor.fetchall() if cursor.description else ()


_ROWCOUNT = attrgetter("rowcount")


def _said(
    connection: Connection, words: str, parameters: Any, *, many: bool = False, read: Callable[[Any], Any] = _rows
) -> Any:
    raw, driver = connection.connection, connection.dialect.loaded_dbapi
    cursor = raw.cursor()
    try:
        (cursor.executemany if many else cursor.execute)(words, parameters)
        return read(cursor)
    except driver.Error as error:
        raise _as_sqlalchemys(error, connection, cursor, words, parameters) from error
    finally:
        cursor.close()


def _as_sqlalchemys(error: Any, connection: Connection, cursor: Any, words: str, parameters: Any) -> Exception:
    raw, driver = connection.connection, connection.dialect.loaded_dbapi
    is_lost = connection.dialect.is_disconnect(error, raw, cursor)
    told: Exception = DBAPIError.instance(
        words,
        parameters,
        error,
        driver.Error,
        hide_parameters=True,
        connection_invalidated=is_lost,
        dialect=connection.dialect,
    )
    if is_lost:
        connection.invalidate(error)
    return told
