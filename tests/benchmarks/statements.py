"""What a PostgreSQL has executed since it was last asked, by statement, and what that wrote into its log."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Engine, create_engine, text

_STATEMENTS = text(
    "SELECT query, calls, total_exec_time * 1000 AS microseconds, rows, wal_bytes"
    " FROM pg_stat_statements JOIN pg_database ON pg_database.oid = dbid"
    " WHERE datname = :database ORDER BY total_exec_time DESC"
)
_CONNECTIONS = text("SELECT count(*) FROM pg_stat_activity WHERE datname = :database")
_RESET = text("SELECT pg_stat_statements_reset()")
_LOG = text("SELECT wal_bytes, wal_sync, wal_fpi, pg_current_wal_lsn() - '0/0' AS position FROM pg_stat_wal")
#: Longer texts are cut.
_WIDTH = 100
#: What is left out of a statement's text: lists that say little and fill lines.
_SHORTER = (
    (re.compile(r"\s+"), " "),
    (re.compile(r"workmanager_"), ""),
    (re.compile(r"\b(SELECT|RETURNING) (?:(?!\b(?:FROM|SELECT)\b)[^()]){40,}(?=FROM|$)"), r"\1 … "),
    (re.compile(r"\bVALUES .*?(?= RETURNING| ON CONFLICT|$)"), "VALUES …"),
    (re.compile(r"(INSERT INTO \w+) \([^)]*\)"), r"\1"),
    (re.compile(r"\bSET .{40,}? (?=FROM|WHERE)"), "SET … "),
    (re.compile(r"\$\d+(::\w+)?(, \$\d+(::\w+)?)+"), "$…"),
)


@dataclass(frozen=True, slots=True)
class Statement:
    """One kind of statement: how often, how long all together, the rows it gave or changed, and the log it wrote."""

    text: str
    calls: int
    microseconds: float
    rows: int
    log_bytes: int


@dataclass(frozen=True, slots=True)
class Log:
    """The write-ahead log so far: its bytes, its flushes, and the whole pages in it."""

    position: int
    flushes: int
    pages: int


class Observer:
    """Asks through a connection to another database, so that its questions aren't among the answers."""

    def __init__(self, url: str, database: str) -> None:
        self._engine: Engine = create_engine(url, isolation_level="AUTOCOMMIT")
        self._database = database

    def begin(self) -> None:
        """Forget what was."""
        with self._engine.connect() as connection:
            connection.execute(_RESET)

    def statements(self) -> list[Statement]:
        """All kinds since then, the costliest first."""
        with self._engine.connect() as connection:
            rows = connection.execute(_STATEMENTS, {"database": self._database}).all()
        return [Statement(row.query, row.calls, row.microseconds, row.rows, int(row.wal_bytes)) for row in rows]

    def log(self) -> Log:
        """The log of the whole server."""
        with self._engine.connect() as connection:
            row = connection.execute(_LOG).one()
        return Log(int(row.position), row.wal_sync, row.wal_fpi)

    def connections(self) -> int:
        """How many there are with the database."""
        with self._engine.connect() as connection:
            return int(connection.execute(_CONNECTIONS, {"database": self._database}).scalar_one())

    def close(self) -> None:
        """Close the connection."""
        self._engine.dispose()


def shortened(query: str) -> str:
    """A statement's text for a cell of a table."""
    for pattern, instead in _SHORTER:
        query = pattern.sub(instead, query)
    query = query.replace("|", "\\|").strip()
    return query if len(query) <= _WIDTH else f"{query[: _WIDTH - 1]}…"


def listing(statements: Iterable[Statement], count: float, most: int, unit: str = "work") -> str:
    """The costliest `most` of them as a table, each beside `count` works (or seconds); the others in a last line."""
    found = list(statements)
    whole = sum(each.microseconds for each in found) or 1.0
    head = f"| statement | a {unit} | µs each | µs a {unit} | part | log bytes a {unit} |"
    lines = [head, "|---|---|---|---|---|---|"]
    lines += [_line(f"`{shortened(each.text)}`", [each], count, whole) for each in found[:most]]
    if found[most:]:
        lines.append(_line(f"{len(found) - most} others", found[most:], count, whole))
    lines.append(_line("all", found, count, whole))
    return "\n".join(lines)


def _line(name: str, some: list[Statement], count: float, whole: float) -> str:
    calls = sum(each.calls for each in some)
    microseconds = sum(each.microseconds for each in some)
    each = microseconds / calls if calls else 0.0
    log_bytes = sum(each.log_bytes for each in some)
    return (
        f"| {name} | {calls / count:.3f} | {each:.0f} | {microseconds / count:.1f} | {microseconds / whole:.0%}"
        f" | {log_bytes / count:.0f} |"
    )
