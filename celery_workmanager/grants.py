"""The rights of those who use a store: SQL for roles that may do their part and no more.

Enqueueing needs more than an INSERT: rows are locked and parents marked (an UPDATE of a few columns), and a unique
name that is used again gives up its finished works (a DELETE, which row-level security restricts to those).
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from celery_workmanager.database import Database
from celery_workmanager.errors import UnsupportedOperation
from celery_workmanager.lifecycle import FINISHED
from celery_workmanager.migrations import VERSION_TABLE
from celery_workmanager.tables import edge, member, metadata, name, pause, run, stop, tag, work

__all__ = ("Role", "statements")


class Role(StrEnum):
    """What somebody is there for."""

    #: Stores works, also chains and under unique names; sees of those of others no data at all.
    ENQUEUE = "enqueue"
    #: Reads everything and changes nothing.
    OBSERVE = "observe"
    #: Runs works, and whatever else changes them: cancels, retries, pauses, prunes.
    WORK = "work"
    #: Creates and upgrades the tables.
    MIGRATE = "migrate"


#: What an enqueue asks of works: whether they exist, and where they stand. Neither input nor output.
_SEEN = (
    work.c.id, work.c.worker, work.c.state, work.c.token, work.c.node, work.c.lane, work.c.waits_for, work.c.options,
    work.c.enqueued_at, work.c.period_at, work.c.held, work.c.version,
)  # fmt: skip
#: What it writes on works that exist, and on its own that a pause holds. An UPDATE of any column lets rows be locked.
_MARKED = (work.c.has_children, work.c.held, work.c.ready_lane, work.c.parked_by, work.c.version)
#: Tables that say something about a work, with the columns that name it: whoever deletes a work deletes their rows.
_ABOUT = {edge: ("parent", "child"), tag: ("work",), member: ("work",), run: ("work",), stop: ("work",)}
_EVERYBODY = "workmanager_everybody"
_READ, _CHANGE = "SELECT", "SELECT, INSERT, UPDATE, DELETE"


def statements(role: Role, to: str, database: Database, schema: str = "public") -> list[str]:
    """The statements that give `to` (MariaDB: ``user@host``) the rights of `role`; safe to repeat.

    Raises UnsupportedOperation for SQLite, and for what MariaDB can't restrict.
    """
    if database.dialect == "postgresql":
        return list(_on_postgresql(role, _quoted(to), _quoted(schema)))
    if database.is_mysql:
        return list(_on_mariadb(role, to, str(database.url.database)))
    raise UnsupportedOperation("SQLite knows no roles: whoever may write the file may do everything")


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


def _tables() -> list[str]:
    return [*sorted(metadata.tables), VERSION_TABLE]


# -- PostgreSQL ----------------------------------------------------------------------------------------------------


def _on_postgresql(role: Role, to: str, schema: str) -> Iterator[str]:
    if role is Role.MIGRATE:
        # It owns what it creates, so there is nothing more to give.
        yield f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {to}"
        return
    yield f"GRANT USAGE ON SCHEMA {schema} TO {to}"
    if role is Role.ENQUEUE:
        yield from _enqueueing(to, schema)
        return
    for table in _tables():
        rights = _CHANGE if role is Role.WORK and table != VERSION_TABLE else _READ
        yield f"GRANT {rights} ON {schema}.{table} TO {to}"


def _enqueueing(to: str, schema: str) -> Iterator[str]:
    seen, marked = (", ".join(column.name for column in columns) for columns in (_SEEN, _MARKED))
    yield f"GRANT SELECT ({seen}), INSERT, UPDATE ({marked}), DELETE ON {schema}.{work.name} TO {to}"
    for table in (edge, tag, member):
        yield f"GRANT SELECT, INSERT, DELETE ON {schema}.{table.name} TO {to}"
    for table in (run, stop):
        yield f"GRANT SELECT (work), DELETE ON {schema}.{table.name} TO {to}"
    yield f"GRANT SELECT, INSERT, UPDATE (name) ON {schema}.{name.name} TO {to}"
    yield f"GRANT SELECT ON {schema}.{pause.name}, {schema}.{VERSION_TABLE} TO {to}"
    states = ", ".join(str(int(state)) for state in sorted(FINISHED))
    yield from _deleting(to, f"{schema}.{work.name}", f"state IN ({states})")
    for table, columns in _ABOUT.items():
        # What is unknown belongs to nobody any more: nothing but a row that was left over.
        finished = (
            f"EXISTS (SELECT FROM {schema}.{work.name} AS w WHERE w.id = {table.name}.{column}"
            f" AND w.state IN ({states}))"
            for column in columns
        )
        yield from _deleting(to, f"{schema}.{table.name}", " OR ".join(finished))


def _deleting(to: str, table: str, condition: str) -> Iterator[str]:
    """Let `to` delete only rows that meet `condition`; nothing changes for anybody else."""
    yield f"DROP POLICY IF EXISTS {_EVERYBODY} ON {table}"
    yield f"CREATE POLICY {_EVERYBODY} ON {table} USING (true) WITH CHECK (true)"
    # A policy's name is its table's own affair, so it may be that of the role.
    yield f"DROP POLICY IF EXISTS {to} ON {table}"
    yield f"CREATE POLICY {to} ON {table} AS RESTRICTIVE FOR DELETE TO {to} USING ({condition})"
    yield f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"


# -- MariaDB, MySQL ------------------------------------------------------------------------------------------------


def _on_mariadb(role: Role, to: str, database: str) -> Iterator[str]:
    if role is Role.ENQUEUE:
        raise UnsupportedOperation(
            "MariaDB and MySQL can't restrict which rows somebody may delete, so there is no role that may only enqueue"
        )
    user, _, host = to.rpartition("@") if "@" in to else (to, "", "%")
    account = f"'{_escaped(user)}'@'{_escaped(host)}'"
    place = "`" + database.replace("`", "``") + "`"
    if role is Role.MIGRATE:
        yield f"GRANT CREATE, ALTER, DROP, INDEX, REFERENCES, {_CHANGE} ON {place}.* TO {account}"
        return
    for table in _tables():
        rights = _CHANGE if role is Role.WORK and table != VERSION_TABLE else _READ
        yield f"GRANT {rights} ON {place}.{table} TO {account}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "''")
