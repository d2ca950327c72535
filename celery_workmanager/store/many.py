"""Changes of many works, each with parameters of its own: on MySQL and MariaDB one statement, not one a work.

There the rows of parameters are one JSON text, which the server takes for a table and joins with the works: a sixth of
the cost of a statement a work. SQLite's driver is given the rows as it wants them (`sentences`): what SQLAlchemy does
with each was over a third of the cost of an end. PostgreSQL has a better way (`store.lists`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Integer,
    SmallInteger,
    String,
    Text,
    Update,
    bindparam,
    column,
    func,
    literal_column,
    update,
)
from sqlalchemy.ext.compiler import compiles

from celery_workmanager.database import is_mysql
from celery_workmanager.sentences import Sentence
from celery_workmanager.tables import work

#: The parameters of a row: columns and expressions under their names.
Given = Mapping[str, Any]
Rows = Sequence[dict[str, Any]]

#: Fewer rows than these are not worth a statement of their own shape.
_FEW = 4
#: How many characters one statement takes: quoted twice they are four times as many bytes, and no server refuses that.
_MOST = 256 * 1024
#: What the parameters are in the table that the server makes of them.
_SPELT: dict[Any, str] = {
    BigInteger: "BIGINT", Integer: "INT", SmallInteger: "SMALLINT", String: "VARCHAR(255)", Text: "LONGTEXT",
}  # fmt: skip
#: Characters as they are: the driver speaks UTF-8.
_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode


class _Joined(Update):
    """An UPDATE of a table that is joined with given rows."""

    inherit_cache = True


@compiles(_Joined)
def _compile_joined(statement: _Joined, compiler: Any, **kw: Any) -> str:
    # The rows come first, and each finds its work by the primary key, whatever a planner thinks of the two: who went
    # through all works would wait for rows that others hold, and that nobody asked for.
    tables, changes = compiler.visit_update(statement, **kw).split(" SET ", 1)
    table, given = tables.removeprefix("UPDATE ").split(", ", 1)
    return f"UPDATE {given} STRAIGHT_JOIN {table} FORCE INDEX (PRIMARY) SET {changes}"  # noqa: S608 - the compiler's words


class Many:
    """An UPDATE of works, and the types of the parameters that each of them has for it.

    `change` makes it of a bare UPDATE and the parameters. Joined with rows, MySQL makes its assignments in no promised
    order, otherwise from left to right: so none may read a column that another one assigns.
    """

    def __init__(self, kinds: Mapping[str, Any], change: Callable[[Update, Given], Update]) -> None:
        self.kinds = kinds
        self.change = change
        #: For one work, or for rows of parameters.
        self.single = change(update(work), {name: bindparam(name, type_=kind()) for name, kind in kinds.items()})
        self._sentence = Sentence(self.single)

    def write(self, connection: Connection, rows: Rows) -> None:
        """Change the works of `rows`, each of which has all the parameters."""
        if not rows:
            return
        if is_mysql(connection):
            for some in _together(rows):
                connection.execute(*(self._joined(some) if len(some) >= _FEW else (self.single, some)))
        else:
            self._sentence.say_each(connection, rows)

    def _joined(self, rows: Rows) -> tuple[Update, dict[str, Any]]:
        # Most parameters are the same in all rows of a batch.
        first = rows[0]
        same = tuple(name for name in self.kinds if all(row[name] == first[name] for row in rows))
        apart = [name for name in self.kinds if name not in same]
        given = _encode([[row[name] for name in apart] for row in rows])
        return _joined(self, same), {_ROWS: given, **{name: first[name] for name in same}}


_ROWS = "given_rows"


@lru_cache(maxsize=256)
def _joined(many: Many, same: tuple[str, ...]) -> Update:
    kinds = {name: kind for name, kind in many.kinds.items() if name not in same}
    # What isn't of its type would be NULL, if nobody asked for an error.
    columns = (
        f"`{name}` {_SPELT[kind]} PATH '$[{at}]' ERROR ON ERROR" for at, (name, kind) in enumerate(kinds.items())
    )
    table = func.json_table(bindparam(_ROWS, type_=Text()), literal_column(f"'$[*]' COLUMNS ({', '.join(columns)})"))
    given = table.table_valued(*(column(name, kind) for name, kind in kinds.items()), name="given").c
    binds = {name: bindparam(name, type_=many.kinds[name]()) for name in same}
    return many.change(_Joined(work), binds | {name: given[name] for name in kinds})


def _together(rows: Rows) -> Iterator[Rows]:
    """`rows` in pieces of a bearable size; what is larger stands alone."""
    some: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        own = sum(len(value) for value in row.values() if isinstance(value, str))
        if some and size + own > _MOST:
            yield some
            some, size = [], 0
        some.append(row)
        size += own
    yield some
