"""What an error of a database means to us."""

from __future__ import annotations

import sqlite3
import time
from typing import Any

import psycopg
import pytest
from celery import Celery
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from celery_workmanager import WorkManager
from celery_workmanager.database import is_conflict, is_disconnect, is_lock_timeout
from celery_workmanager.errors import StoreBusy, StoreNotMigrated, StoreUnavailable
from celery_workmanager.store import Store
from tests.stores import job, put, states, twin


def sqlalchemys(driver: Exception, kind: type[DBAPIError] = OperationalError) -> DBAPIError:
    return kind("UPDATE …", {}, driver)


def frameworks(driver: Exception) -> Exception:
    """As Django's cursor raises it: an error of its own, caused by the driver's."""
    error = type("OperationalError", (Exception,), {})(str(driver))
    error.__cause__ = driver
    return error


def meanings(error: Any) -> set[str]:
    questions = {"locked": is_lock_timeout, "conflict": is_conflict, "away": is_disconnect}
    return {name for name, asks in questions.items() if asks(error)}


@pytest.mark.parametrize("wrap", [sqlalchemys, frameworks])
@pytest.mark.parametrize(
    ("driver", "meaning"),
    [
        (psycopg.errors.LockNotAvailable(), "locked"),
        (psycopg.errors.DeadlockDetected(), "conflict"),
        (psycopg.errors.SerializationFailure(), "conflict"),
        (psycopg.errors.AdminShutdown(), "away"),
        (psycopg.errors.DiskFull(), "away"),
        (psycopg.errors.TooManyConnections(), "away"),
        (psycopg.errors.ReadOnlySqlTransaction(), "away"),
        (psycopg.OperationalError("connection refused"), "away"),
        (psycopg.errors.QueryCanceled(), ""),
        (psycopg.errors.CheckViolation("workmanager_work"), ""),
        (sqlite3.OperationalError("database is locked"), "locked"),
        (sqlite3.OperationalError("database table is locked"), "conflict"),
        (sqlite3.OperationalError("unable to open database file"), "away"),
        (sqlite3.OperationalError("database or disk is full"), "away"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "away"),
        (sqlite3.OperationalError("disk I/O error"), "away"),
        (sqlite3.OperationalError("no such column: x"), ""),
        (sqlite3.IntegrityError("CHECK constraint failed"), ""),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_an_error_means_the_same_whoever_wraps_it(driver: Exception, meaning: str, wrap: Any):
    assert meanings(wrap(driver)) == ({meaning} if meaning else set())


@pytest.mark.parametrize("text", ["Key (id)=(0199-1205-1146) exists", "database is locked", "connection", "1213"])
def test_what_a_message_quotes_means_nothing(text: str):
    """Ids and texts of users stand in messages; numbers and words in them are theirs."""
    assert meanings(sqlalchemys(psycopg.errors.UniqueViolation(text), IntegrityError)) == set()
    assert meanings(sqlalchemys(sqlite3.IntegrityError(text), IntegrityError)) == set()


def test_errors_of_a_frameworks_connection_are_explained_like_our_own(store: Store):
    for driver, error in (
        (sqlite3.OperationalError("no such table: workmanager_work"), StoreNotMigrated),
        (sqlite3.OperationalError("database is locked"), StoreBusy),
        (sqlite3.OperationalError("unable to open database file"), StoreUnavailable),
    ):
        with pytest.raises(error), store.database.transaction():
            raise frameworks(driver)


def test_a_table_of_the_users_that_is_missing_is_the_users_error(store: Store):
    with pytest.raises(DBAPIError), store.database.transaction() as connection:
        connection.exec_driver_sql("SELECT * FROM orders_of_nobody")


def test_a_file_that_somebody_writes_to_is_busy_and_nothing_is_lost(store: Store):
    if not store.database.is_sqlite:
        pytest.skip("a server locks rows")
    impatient = twin(store, name_wait=0.1)
    put(impatient, "a")
    other = sqlite3.connect(str(store.database.url.database), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusy):
        put(impatient, "b")
    assert states(impatient) == {"a": "ENQUEUED"}
    other.execute("ROLLBACK")
    other.close()
    put(impatient, "b")
    assert len(states(store)) == 2
    impatient.close()


_END_ITSELF = {
    "postgresql": "SELECT pg_terminate_backend(pg_backend_pid())",
    "mariadb": "KILL CONNECTION_ID()",
}


def test_a_clock_that_is_set_back_after_a_loss_costs_no_connections(server: Store, monkeypatch: pytest.MonkeyPatch):
    def lose(connection: Connection) -> None:
        connection.execute(text(_END_ITSELF[server.database.dialect]))
        connection.execute(text("SELECT 1"))

    opened: list[object] = []
    event.listen(server.database.engine(), "connect", lambda dbapi, _record: opened.append(dbapi))
    with monkeypatch.context() as late:
        now = time.time
        late.setattr(time, "time", lambda: now() + 3600)
        with pytest.raises(StoreUnavailable):
            server.database.run(lose)
    lost = len(opened)
    for each in "abcd":
        put(server, each, job(f"{each}-child"))
    assert len(opened) - lost <= 1
    assert len(states(server)) == 8


_IDLE = {
    "postgresql": "SELECT extract(epoch FROM current_setting('idle_in_transaction_session_timeout')::interval)",
    "mariadb": "SELECT @@idle_transaction_timeout",
}


@pytest.mark.parametrize(("lease", "seconds"), [(15.0, 10), (5.5, 5), (0.5, 1)])
def test_what_a_node_left_open_is_free_when_its_lease_is_over(server: Store, lease: float, seconds: int):
    app = Celery("short", set_as_current=False)
    url = server.database.url.render_as_string(hide_password=False)
    manager = WorkManager(app, store_url=url, settings={"lease": lease})
    database = manager.store.database
    with database.transaction() as connection:
        assert connection.execute(text(_IDLE[database.dialect])).scalar() == seconds
    manager.store.close()
