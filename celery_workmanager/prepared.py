"""PostgreSQL: statements of ours that are prepared in a session and then said to libpq, without a cursor.

A cursor of psycopg's takes three times the processor time of the exchange itself, on our side: it is made anew, turns
values and results to and fro by their types, and waits in a generator. What is said here has texts and whole numbers
only, and no transaction around it.
"""

from __future__ import annotations

import re
import select
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

from sqlalchemy import Connection

_KEY = "workmanager_prepared"
#: So many in a session; it keeps a plan of each. The driver keeps as many of its own.
_MOST = 100
_PLACE = re.compile(r"%\((\w+)\)s|%%")
#: How results are read, by the types that our statements have: boolean, whole numbers, texts, and nothing.
_READERS: dict[int, Callable[[bytes], Any]] = {
    16: b"t".__eq__,
    **dict.fromkeys((20, 21, 23), int),
    **dict.fromkeys((25, 1043, 2278), bytes.decode),
}
#: The statement is unknown: another one has dropped all of the session's.
_FORGOTTEN = "26000"
#: Its results have other types since a migration.
_OUTDATED = "0A000"
_numbers = count()

_Readers = tuple[Callable[[bytes], Any], ...]


def with_literals(words: str, values: Mapping[str, Any]) -> str:
    """A statement in psycopg's words, with these values as words of it, too."""
    from psycopg.sql import Literal  # noqa: PLC0415 - only where PostgreSQL is spoken to

    def literal(found: re.Match[str]) -> str:
        name = found[1]
        return Literal(values[name]).as_string(None).replace("%", "%%") if name in values else found[0]

    return _PLACE.sub(literal, words)


class Prepared:
    """A statement in psycopg's words, of which each session knows whether it is prepared there."""

    def __init__(self, words: str) -> None:
        self._places: list[str] = []
        self._words = _PLACE.sub(self._numbered, words).encode()
        self._name = f"workmanager_{next(_numbers)}".encode()

    def _numbered(self, found: re.Match[str]) -> str:
        place = found[1]
        if place is None:
            return "%"
        if place not in self._places:
            self._places.append(place)
        return f"${self._places.index(place) + 1}"

    def say(self, connection: Connection, values: Mapping[str, Any]) -> Sequence[Sequence[Any]] | None:
        """Its rows; ``None``: nothing was done, a cursor must say it. Raises the driver's errors."""
        driver: Any = connection.connection.driver_connection
        # A cursor begins transactions; and behind a pooler the next statement may be in another session.
        if not driver.autocommit or driver.prepare_threshold is None or not hasattr(select, "poll"):
            return None
        given = [_as_text(values[place]) for place in self._places]
        if b"\0" in given:
            return None
        known: dict[Prepared, _Readers | None] = connection.info.setdefault(_KEY, {})
        if self not in known:
            # What is said once in a session isn't worth it.
            if len(known) < _MOST:
                known[self] = None
            return None
        try:
            readers = known[self]
            if readers is None:
                readers = known[self] = self._prepare(driver)
            return None if _UNFIT in readers else self._said(driver, given, readers, known)
        except connection.dialect.loaded_dbapi.Error:
            raise
        except BaseException:
            # The answer is still to come, and nobody waits for it.
            connection.invalidate()
            raise

    def _prepare(self, driver: Any) -> _Readers:
        libpq = driver.pgconn
        if driver.info.encoding != "utf-8":
            return (_UNFIT,)
        libpq.send_prepare(self._name, self._words)
        _checked(_answer(libpq))
        libpq.send_describe_prepared(self._name)
        shape = _checked(_answer(libpq))
        return tuple([_READERS.get(shape.ftype(column), _UNFIT) for column in range(shape.nfields)])

    def _said(
        self, driver: Any, given: list[bytes | None], readers: _Readers, known: dict[Prepared, _Readers | None]
    ) -> Sequence[Sequence[Any]] | None:
        driver.pgconn.send_query_prepared(self._name, given)
        result = _answer(driver.pgconn)
        if result.status not in _DONE:
            error = _error_of(result)
            if error.sqlstate not in (_FORGOTTEN, _OUTDATED):
                raise error
            known[self] = None if error.sqlstate == _FORGOTTEN else (_UNFIT,)
            return None
        value, columns = result.get_value, tuple(enumerate(readers))
        return [
            tuple([None if (read := value(row, column)) is None else reader(read) for column, reader in columns])
            for row in range(result.ntuples)
        ]


def _unfit(_: bytes) -> Any:  # pragma: no cover - never read with
    raise TypeError("expected texts and whole numbers")


_UNFIT: Callable[[bytes], Any] = _unfit


def _as_text(value: Any) -> bytes | None:
    """`value` as libpq takes it; one that it can't take (or would cut, at a zero) as a zero."""
    if value is None:
        return None
    kind = type(value)
    if kind is str:
        return value.encode() if "\0" not in value else b"\0"
    return b"%d" % value if kind is int else b"\0"


def _answer(libpq: Any) -> Any:
    """The first result of what was sent, after all of them have come."""
    # Polled here, where a signal is heard, and other greenlets run (gevent replaces it).
    poll = select.poll()
    poll.register(libpq.socket, select.POLLIN)
    if libpq.flush():  # it is more than the socket takes at once
        poll.modify(libpq.socket, select.POLLIN | select.POLLOUT)
        while libpq.flush():
            poll.poll()
            libpq.consume_input()
        poll.modify(libpq.socket, select.POLLIN)
    first = None
    while True:
        while libpq.is_busy():
            poll.poll()
            libpq.consume_input()
        result = libpq.get_result()
        if result is None:
            return first
        first = result if first is None else first


#: libpq's PGRES_COMMAND_OK and PGRES_TUPLES_OK.
_DONE = (1, 2)


def _checked(result: Any) -> Any:
    if result.status not in _DONE:
        raise _error_of(result)
    return result


def _error_of(result: Any) -> Any:
    from psycopg import Error, errors  # noqa: PLC0415 - only where PostgreSQL is spoken to

    # Its field "C" is the state of the error; one without a class of its own has that of its kind.
    state = (result.error_field(ord("C")) or b"").decode()
    try:
        kind = errors.lookup(state)
    except KeyError:
        kind = {"08": errors.OperationalError, "57": errors.OperationalError}.get(state[:2], errors.DatabaseError)
    made: Error = kind(result.error_message.decode(errors="replace").strip(), info=result, encoding="utf-8")
    return made
