"""The store: whether it is there, durable, up to date, and tells the same time as this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
from sqlalchemy.exc import SQLAlchemyError

from celery_workmanager import mysql, schema
from celery_workmanager.app import WorkManager
from celery_workmanager.database import Database, time_of
from celery_workmanager.doctor.finding import Finding, error, note, several, warning
from celery_workmanager.errors import ConfigurationError, StoreError
from celery_workmanager.migrations import HEAD
from celery_workmanager.overview import carelessness

#: With any of these, nothing can be read.
CLOSED = {"store-url", "store-away", "store-memory", "store-new", "schema-missing", "schema-old", "schema-new"}
#: Seconds by which clocks may differ without anybody noticing.
_SKEW = 1.0
#: File systems between machines: locks and shared memory, which SQLite's WAL lives by, don't hold there.
_BETWEEN_MACHINES = {
    "9p", "afs", "ceph", "cifs", "davfs", "fuse.ceph", "fuse.davfs", "fuse.glusterfs", "fuse.grpcfuse", "fuse.s3fs",
    "fuse.sshfs", "gfs2", "glusterfs", "lustre", "nfs", "nfs4", "ocfs2", "prl_fs", "smb2", "smb3", "smbfs", "vboxsf",
    "virtiofs",
}  # fmt: skip


def examine(manager: WorkManager) -> Iterator[Finding]:
    """Everything about the database, as far as it can be reached."""
    try:
        database = manager.engine_store.database
        if database.is_sqlite and (found := list(_file(database))):
            yield from found
            if any(each.code in CLOSED for each in found):
                return
        yield from _server(database)
        yield from _room(manager)
    except StoreError as away:
        yield error(
            "store-away",
            str(away),
            "Nothing can be enqueued; nodes wait, and what runs is written when it is back.",
            "Start the database, or set workmanager_store_url right.",
        )
    except (ConfigurationError, SQLAlchemyError, ImportError) as unusable:
        yield error(
            "store-url",
            f"The store can't be opened: {str(unusable).splitlines()[0]}",
            "Nothing can be enqueued or run.",
            "Set workmanager_store_url to an SQLAlchemy URL; PostgreSQL needs celery-workmanager[postgresql], MariaDB"
            " celery-workmanager[mysql].",
        )


# -- a file ------------------------------------------------------------------------------------------------------


def _file(database: Database) -> Iterator[Finding]:
    if database.in_memory:
        yield error(
            "store-memory",
            "The store is SQLite in memory.",
            "Each process has a store of its own, which ends with it: no worker ever sees a work.",
            "Set workmanager_store_url to a file or a server.",
        )
        return
    given = Path(str(database.url.database)).expanduser()
    path = given.absolute()
    if not given.is_absolute():
        yield note(
            "store-relative",
            f"The store's path is relative: from here it is {path}.",
            "A process that is started in another directory has another store.",
            f"Set workmanager_store_url to sqlite:///{path}.",
        )
    kind = filesystem_of(path, [(each.mountpoint, each.fstype) for each in psutil.disk_partitions(all=True)])
    if kind in _BETWEEN_MACHINES:
        yield error(
            "store-network",
            f"{path} is on a network file system ({kind}).",
            "SQLite's locks don't hold there: works may be lost or run twice, and the file may be damaged.",
            "Put it on a local disk, or use PostgreSQL or MariaDB for several machines.",
        )
    if not path.exists():
        yield _unborn(path)


def _unborn(path: Path) -> Finding:
    parent = next(each for each in path.parents if each.exists())
    if not os.access(parent, os.W_OK):
        return error(
            "store-new",
            f"There is no store yet, and {parent} can't be written.",
            "It can't be created.",
            "Set workmanager_store_url to a file that may be written.",
        )
    return note(
        "store-new",
        f"There is no store yet: {path} doesn't exist.",
        "It is created when the first work is enqueued or the first worker starts.",
        "Nothing, unless you expected works in it.",
    )


def filesystem_of(path: Path, mounts: Sequence[tuple[str, str]]) -> str:
    """The kind of the file system that holds `path`, by the machine's mount points; "" if unknown."""
    real = Path(os.path.realpath(path))
    holding = [(len(point), kind) for point, kind in mounts if real.is_relative_to(point)]
    return max(holding, default=(0, ""))[1]


# -- what every database has -------------------------------------------------------------------------------------


def _server(database: Database) -> Iterator[Finding]:
    with database.plain() as connection:
        revision = schema.revision_of(connection)
        oldest = schema.oldest_fitted(connection) if schema.is_later(revision) else ""
        if revision != HEAD:
            yield _of_revision(database, revision, oldest)
            if not schema.is_later(revision) or oldest > HEAD:
                return
        # What a later version has added is no drift.
        elif drift := schema.drift(connection):
            yield warning(
                "schema-drift",
                f"The tables differ from what this version creates: {several(drift)}.",
                "Somebody changed them by hand. A missing index makes every claim slow.",
                f"Undo the change, or create the tables anew (`{database.migrate_command}` in an empty database).",
            )
        if careless := carelessness(connection):
            yield warning(
                "store-careless",
                f"The database is set to {several(careless)}.",
                "A crash of the database's machine may lose works that were enqueued or finished just before.",
                "Leave these settings on their defaults.",
            )
        before = time.time()
        theirs, after = time_of(connection), time.time()
    if theirs is not None and abs(skew := theirs / 1_000_000 - (before + after) / 2) > _SKEW:
        yield warning(
            "clock-skew",
            f"The database's clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this machine's.",
            "Works go by the database's clock. A moment that this machine computes (eta, expires) is off by as much.",
            "Let both machines keep their time (NTP, chrony).",
        )


def _room(manager: WorkManager) -> Iterator[Finding]:
    database, longest = manager.store.database, manager.settings.limits.call_max_bytes
    if not database.is_mysql:
        return
    with database.plain() as connection:
        room = mysql.longest_statement(connection)
    if room < 2 * longest:
        yield warning(
            "store-packet",
            f"The database takes statements of {room} bytes; a call of {longest} bytes may need twice as many, quoted.",
            "A longer enqueue is refused, and a work whose result is longer fails.",
            f"Set the server's max_allowed_packet to {4 * longest}, or lower workmanager_call_max_bytes.",
        )


def _of_revision(database: Database, revision: str | None, oldest: str) -> Finding:
    seen = f"The store has schema {revision or 'none'}, this version needs {HEAD}."
    migrate = f"Run `{database.migrate_command}`."
    if schema.is_later(revision) and oldest > HEAD:
        means = f"A newer version has migrated it, and it fits {oldest} and later: this one can't use it."
        return error("schema-new", seen, means, "Upgrade celery-workmanager.")
    if schema.is_later(revision):
        means = "A newer version has migrated it; this one works with it as well."
        return note("schema-ahead", seen, means, "Go on with the upgrade: restart this process with that version.")
    if database.is_sqlite and database.migrated_by is None:
        return note("schema-old", seen, "A file is brought up to date on its first use.", f"Nothing, or: {migrate}")
    code = "schema-missing" if revision is None else "schema-old"
    return error(code, seen, "Nothing can be enqueued, and no worker runs works.", migrate)
