"""The schema of a store: which revision it has, and how it gets the one this version needs.

SQLite stores are created and upgraded on first use; on a server a person does it (`celery -A proj work migrate`).
A later revision only adds to an earlier one until it says otherwise (`OLDEST_FACT`), so earlier versions go on with it.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib.resources import files
from typing import Any, TypeVar

from sqlalchemy import Connection, inspect, select, text
from sqlalchemy.exc import SQLAlchemyError

from celery_workmanager.database import Database, is_mysql
from celery_workmanager.errors import StoreBusy, StoreTooNew
from celery_workmanager.migrations import HEAD, OLDEST_FACT, VERSION_TABLE
from celery_workmanager.tables import fact, metadata_of

T = TypeVar("T")

#: The longest name of a lock in MySQL.
_NAMED_LOCK = 64
#: Seconds for which a migration tries to get at tables that transactions are using, and between two tries.
_PATIENCE, _PAUSE = 300.0, 1.0
#: The same for a file that is brought up to date in passing, by somebody who waits for it; maybe another one does it.
_PATIENCE_IN_PASSING = 30.0
_TRY_LOCK = text("SELECT pg_try_advisory_xact_lock(hashtext('celery_workmanager'))")


def revision_of(connection: Connection) -> str | None:
    """The revision of the store's tables, ``None`` when there are none."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608 - a constant


def is_later(revision: str | None) -> bool:
    """Whether a later version has migrated a store to `revision`."""
    return revision is not None and revision > HEAD


def oldest_fitted(connection: Connection) -> str:
    """The oldest revision whose versions can use the store as it is; "" if every one can."""
    return str(connection.execute(select(fact.c.value).where(fact.c.key == OLDEST_FACT)).scalar() or "")


def ensure(database: Database) -> None:
    """See that the store can be used: an embedded one of ours is brought up to date, others must be already.

    Raises StoreNotMigrated, StoreTooNew, StoreUnavailable.
    """
    with database.plain() as connection:
        found = revision_of(connection)
        if found is not None and is_later(found):
            oldest = oldest_fitted(connection)
            if oldest > HEAD:
                raise StoreTooNew(database.shown_url, found, oldest, HEAD)
            return
    if found == HEAD:
        return
    if not database.is_sqlite or database.migrated_by is not None:
        raise database.not_migrated(found)
    migrate(database)


def migrate(database: Database) -> tuple[str | None, str]:
    """Bring the tables to the revision this version needs; returns the revisions before and after. Safe to repeat.

    A later revision is left alone. Raises StoreNotMigrated when the tables are somebody else's, and not up to date;
    StoreTooNew; StoreBusy when transactions keep a table from being changed for minutes.
    """
    if database.migrated_by is not None:
        ensure(database)
        return HEAD, HEAD
    with _patient(database) as patient:
        if patient.dialect == "postgresql":
            before = _tried_again(lambda: _step_by_step(patient), _PATIENCE)
        else:
            patience = _PATIENCE_IN_PASSING if patient.is_sqlite else _PATIENCE
            before = _tried_again(lambda: patient.run(_at_once), patience)
        if before is None or not is_later(before):
            return before, HEAD
        ensure(patient)
        return before, before


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


def _tried_again(change: Callable[[], T], patience: float) -> T:
    """What `change` returns. It waits only seconds for a table, since whoever comes later waits behind it."""
    until = time.monotonic() + patience
    while True:
        try:
            return change()
        except StoreBusy:
            if time.monotonic() > until:
                raise
        time.sleep(random.uniform(0.5, 1.5) * _PAUSE)  # noqa: S311 - jitter


def _step_by_step(database: Database) -> str | None:
    """Each revision is a transaction of its own, so that none holds its locks while the next one works."""
    with _alone(database) as before:
        if not _is_up_to_date(before):
            with database.engine().connect() as connection:
                _run_alembic(connection)
        return before


@contextmanager
def _alone(database: Database) -> Iterator[str | None]:
    """One at a time: a second migration waits here and then finds nothing to do. Gives the revision that is there.

    An index made concurrently waits for all snapshots, and that of a SELECT lives until the next statement. So the
    transaction that holds the lock ends with none, and who waits for the lock waits outside.
    """
    while True:
        with database.transaction() as keeper:
            if keeper.execute(_TRY_LOCK).scalar_one():
                before = revision_of(keeper)
                keeper.execute(text("SET LOCAL idle_in_transaction_session_timeout TO 0"))
                yield before
                return
        time.sleep(_PAUSE)


def _at_once(connection: Connection) -> str | None:
    """On SQLite one transaction; on MySQL each change of a table ends one, and a new try goes on from there."""
    with _named_lock(connection) if is_mysql(connection) else nullcontext():
        before = revision_of(connection)
        if not _is_up_to_date(before):
            _run_alembic(connection)
        return before


def _is_up_to_date(revision: str | None) -> bool:
    return revision == HEAD or is_later(revision)


@contextmanager
def _named_lock(connection: Connection) -> Iterator[None]:
    # No lock of a transaction: each change of a table ends the transaction it is in. Names are the whole server's.
    name = {"name": f"workmanager {connection.engine.url.database}"[:_NAMED_LOCK]}
    connection.execute(text("SELECT GET_LOCK(:name, 86400)"), name)
    try:
        yield
        # Or who waits for the lock would not see the revision that has been written.
        connection.exec_driver_sql("COMMIT")
    finally:
        # One that has failed may not even be asked; the lock ends with it.
        with suppress(SQLAlchemyError):
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
