"""The schema of a store: which revision it has, and how it gets the one this version needs.

SQLite stores are created and upgraded on first use; on a server a person does it (`celery -A proj work migrate`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.resources import files
from typing import Any

from sqlalchemy import Connection, inspect, text

from celery_workmanager.database import Database, is_mysql
from celery_workmanager.migrations import HEAD, VERSION_TABLE
from celery_workmanager.tables import metadata_of

#: The longest name of a lock in MySQL.
_NAMED_LOCK = 64


def revision_of(connection: Connection) -> str | None:
    """The revision of the store's tables, ``None`` when there are none."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608 - a constant


def ensure(database: Database) -> None:
    """See that the store can be used: an embedded one of ours is brought up to date, others must be already.

    Raises StoreNotMigrated, StoreUnavailable.
    """
    with database.plain() as connection:
        found = revision_of(connection)
    if found == HEAD:
        return
    if not database.is_sqlite or database.migrated_by is not None:
        raise database.not_migrated(found)
    migrate(database)


def migrate(database: Database) -> tuple[str | None, str]:
    """Bring the tables to the revision this version needs; returns the revisions before and after. Safe to repeat.

    Raises StoreNotMigrated when the tables are somebody else's, and not up to date.
    """
    if database.migrated_by is not None:
        ensure(database)
        return HEAD, HEAD
    with _patient(database) as patient:
        return patient.run(_upgrade), HEAD


@contextmanager
def _patient(database: Database) -> Iterator[Database]:
    """The same database, with all the time that an index over many rows takes to be made."""
    if not database.is_mysql:
        yield database
        return
    url = database.url.update_query_dict({"read_timeout": "86400"})
    patient = Database(url.render_as_string(hide_password=False), lock_wait=database.lock_wait)
    try:
        yield patient
    finally:
        patient.close()


def _upgrade(connection: Connection) -> str | None:
    # One at a time: a second migration waits here and then finds nothing to do.
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('celery_workmanager'))"))
    with _named_lock(connection) if is_mysql(connection) else nullcontext():
        before = revision_of(connection)
        if before != HEAD:
            _run_alembic(connection)
        return before


@contextmanager
def _named_lock(connection: Connection) -> Iterator[None]:
    # No lock of a transaction: each change of a table ends the transaction it is in. Names are the whole server's.
    name = {"name": f"workmanager {connection.engine.url.database}"[:_NAMED_LOCK]}
    connection.execute(text("SELECT GET_LOCK(:name, 86400)"), name)
    try:
        yield
    finally:
        connection.execute(text("SELECT RELEASE_LOCK(:name)"), name)


def drift(connection: Connection) -> list[str]:
    """In what the tables differ from those this version creates ("missing index …"); others are passed over."""
    # Imported here, as below.
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    wanted = metadata_of(connection.dialect.name)

    def is_ours(name: str | None, kind: str, _parents: Any) -> bool:
        return kind != "table" or name in wanted.tables

    context = MigrationContext.configure(connection, opts={"compare_type": True, "include_name": is_ours})
    return [_difference(*change) for change in _flat(compare_metadata(context, wanted))]


def _flat(changes: Any) -> Iterator[Any]:
    for change in changes:
        # What is changed about one column comes as a list.
        yield from change if isinstance(change, list) else [change]


_DIFFERENCES = {"add": "missing", "remove": "unknown"}


def _difference(change: str, *what: Any) -> str:
    verb, _, kind = change.partition("_")
    if verb == "modify":
        return f"changed {kind} of {what[1]}.{what[2]}"
    table = f"{what[1]}." if kind == "column" else ""
    return f"{_DIFFERENCES[verb]} {kind} {table}{what[-1].name}"


def _run_alembic(connection: Connection) -> None:
    # Imported here: it takes a quarter of a second, and hardly any process ever migrates.
    from alembic import command
    from alembic.config import Config

    config: Any = Config()
    config.set_main_option("script_location", str(files("celery_workmanager.migrations")))
    config.attributes["connection"] = connection
    # An embedded store is created in passing, inside somebody's program: that is no news for its log.
    log = logging.getLogger("alembic")
    level = log.level
    log.setLevel(max(level, logging.WARNING))
    try:
        command.upgrade(config, HEAD)
    finally:
        log.setLevel(level)
