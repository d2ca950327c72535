"""MySQL and MariaDB: how connections of ours are opened, and what a caller's transaction has to be like.

InnoDB answers a plain read from a snapshot and a locking one from the present, and refuses no snapshot for its age; it
takes back a statement when a lock is waited for in vain, and at a deadlock the whole transaction.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError

from celery_workmanager.errors import UnsupportedOperation
from celery_workmanager.quiet import look_after

#: What SQLAlchemy calls these databases, by the URL.
DIALECTS = ("mysql", "mariadb")
#: The driver where the URL names none.
DRIVER = "pymysql"
#: Levels at which what is read is what is there, if it has been locked before.
_FRESH = {"READ-COMMITTED", "SERIALIZABLE"}
#: A statement was refused for its size; so it may have been where the connection is gone since.
_TOO_LARGE, _GONE = 1153, {2006, 2013}
#: As for PostgreSQL, where there are such options: seconds until the kernel asks a silent server, and asks again, and
#: milliseconds until it gives it up.
_KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_USER_TIMEOUT": 10_000}
#: The server can't be reached, shuts down, has no room left (disk, connections), or takes no writes; nobody may log in.
AWAY = {
    1021, 1040, 1044, 1045, 1049, 1053, 1081, 1114, 1129, 1130, 1152, 1153, 1158, 1159, 1160, 1161, 1203, 1226, 1290,
    1698, 1836, 1927, 2002, 2003, 2005, 2006, 2013, 2014, 2055, 4031,
}  # fmt: skip


def with_driver(url: URL) -> URL:
    """`url` with our driver, if it names none."""
    return url.set(drivername=f"{url.drivername}+{DRIVER}") if url.drivername in DIALECTS else url


def whole_seconds(wait: float) -> int:
    """How long InnoDB waits for a lock: it counts in seconds, and at least one."""
    return max(1, math.ceil(wait))


def open_engine(url: URL, *, lock_wait: float, autocommit: bool, idle: int) -> Engine:
    """An engine for transactions or, with `autocommit`, for statements that are transactions of their own.

    `lock_wait`: seconds to wait for rows and tables that others hold. `idle`: those after which the server takes back a
    transaction in which nothing happens.
    """
    # A server that vanished says nothing: reads are given up when no statement of ours could still wait for a lock.
    reach = {"connect_timeout": 5, "read_timeout": whole_seconds(lock_wait) + 30, "write_timeout": 30}
    engine = create_engine(
        url,
        # Asked for with each connection, an isolation level would cost three statements to set and to take back.
        **({"isolation_level": "AUTOCOMMIT"} if autocommit else {}),
        pool_reset_on_return=None,  # it is the end of a transaction that comes back, whatever that was
        pool_size=5,
        max_overflow=10,
        hide_parameters=True,
        connect_args={key: value for key, value in reach.items() if key not in url.query},
    )
    # Where no transaction is ever open, a rollback after each use is a question for nothing. (An attribute, since older
    # releases of SQLAlchemy refuse it as an argument, and ask.)
    engine.dialect.skip_autocommit_rollback = autocommit
    event.listen(engine, "connect", lambda dbapi, _: _prepare(dbapi, whole_seconds(lock_wait), idle))
    look_after(engine, _socket, engine.dialect.do_ping)
    return engine


def _socket(dbapi: Any) -> Any:
    # PyMySQL has no name for it; mysqlclient's connections have a `fileno` of their own.
    return getattr(dbapi, "_sock", dbapi)


def _prepare(dbapi: Any, wait: int, idle: int) -> None:
    with suppress(AttributeError, OSError):
        for option, patience in _KEEPALIVE.items():
            _socket(dbapi).setsockopt(socket.IPPROTO_TCP, getattr(socket, option), patience)
    # MySQL has no time-out for transactions, only for connections; those that were closed are opened again.
    idles = "idle_transaction_timeout" if "mariadb" in dbapi.get_server_info().lower() else "wait_timeout"
    with dbapi.cursor() as cursor:
        # Our statements lock and look again; under the default, gaps would be locked, too, and old snapshots read.
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        cursor.execute(
            f"SET SESSION innodb_lock_wait_timeout = {wait}, lock_wait_timeout = {wait}, {idles} = {idle},"
            # What doesn't fit is an error, whatever the server's own mode is.
            " sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'"
        )


def collation(*, is_mariadb: bool) -> str:
    """The collation that compares texts character by character, trailing blanks included."""
    return "utf8mb4_nopad_bin" if is_mariadb else "utf8mb4_0900_bin"


def is_mariadb(connection: Connection) -> bool:
    """Whether the server is a MariaDB."""
    return bool(getattr(connection.dialect, "is_mariadb", False))


def small_index_columns(dialect: str, guard: str, *columns: str) -> list[str]:
    """The columns of an index that leaves out rows where `guard` is NULL.

    There are no partial indexes here: `guard` leads them, so that those rows lie together at one end.
    """
    leads = dialect in DIALECTS and guard not in columns
    return [guard, *columns] if leads else list(columns)


@contextmanager
def as_guest(connection: Connection, wait: float) -> Iterator[None]:
    """Inside a caller's transaction: locks are waited for as in ours, and what fails leaves nothing behind.

    Raises UnsupportedOperation when the transaction would read from an old snapshot.
    """
    isolation, patience = connection.execute(_TERMS[is_mariadb(connection)]).one()
    if isolation not in _FRESH:
        raise UnsupportedOperation(
            f"expected a transaction under READ COMMITTED, got: {isolation.replace('-', ' ')}, in which this database"
            ' reads what may have changed since; open it with isolation_level="READ COMMITTED"'
        )
    savepoint = connection.begin_nested()
    connection.execute(_SET_PATIENCE, {"wait": whole_seconds(wait)})
    try:
        yield
    except Exception:
        # A deadlock has ended the caller's transaction with all its savepoints, and a lost connection can do nothing.
        with suppress(Exception):
            savepoint.rollback()
        with suppress(Exception):
            connection.execute(_SET_PATIENCE, {"wait": patience})
        raise
    savepoint.commit()
    connection.execute(_SET_PATIENCE, {"wait": patience})


_TERMS = {
    True: text("SELECT @@tx_isolation, @@innodb_lock_wait_timeout"),
    False: text("SELECT @@transaction_isolation, @@innodb_lock_wait_timeout"),
}
_SET_PATIENCE = text("SET SESSION innodb_lock_wait_timeout = :wait")


def refused_size(error: DBAPIError, engine: Engine) -> tuple[int, int] | None:
    """Whether the server refused a statement for its size: about how many bytes it had, and how many it may have."""
    code = error.orig.args[0] if error.orig is not None and error.orig.args else None
    size = _longest(error.params) if code == _TOO_LARGE or code in _GONE else 0
    if size < _NEVER_REFUSED:
        return None
    # The server cuts the connection instead of an answer, or before it.
    try:
        with engine.connect() as connection:
            most = longest_statement(connection)
    except DBAPIError:
        return None
    return (size, most) if size > most - _NEVER_REFUSED else None


def longest_statement(connection: Connection) -> int:
    """How many bytes a statement may have."""
    return int(connection.execute(text("SELECT @@max_allowed_packet")).scalar_one())


#: Less than any server's ``max_allowed_packet``, and more than a statement of ours has beside its values.
_NEVER_REFUSED = 32_768


def _longest(parameters: Any) -> int:
    """About how many bytes the values of the longest of the statements with these `parameters` have, quoted."""
    rows = parameters if isinstance(parameters, list) else [parameters]
    return max((sum(map(_quoted, row.values() if isinstance(row, dict) else row)) for row in rows if row), default=0)


def _quoted(value: Any) -> int:
    return len(value.encode()) + sum(map(value.count, "\\'\"\0\n\r\x1a")) if isinstance(value, str) else 0
