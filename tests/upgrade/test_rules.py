"""Migrations after a release only add to what its versions know, and say so when they no longer do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import insert, text, update

from celery_workmanager import OneTimeWorkRequest, StopReason, WorkManager, schema
from celery_workmanager.database import Database
from celery_workmanager.doctor import Severity, examine
from celery_workmanager.errors import StoreNotMigrated, StoreTooNew
from celery_workmanager.migrations import HEAD, OLDEST_FACT, VERSION_TABLE
from celery_workmanager.pauses import PauseTarget
from celery_workmanager.store import pausing
from celery_workmanager.store.leasing import NodeRow
from celery_workmanager.tables import fact, pause, work
from tests import services
from tests.store.test_schema import alembic
from tests.stores import HOUR, info, job, make_store, put
from tests.story.workers import wait_until
from tests.upgrade import upgrade_app
from tests.upgrade.processes import Place
from tests.upgrade.rules import anatomy, broken, change
from tests.upgrade.versions import today


@pytest.fixture
def database(store_url: str) -> Iterator[Database]:
    made = Database(store_url)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("DROP TABLE workmanager_limit", "table workmanager_limit is gone"),
        ("ALTER TABLE workmanager_limit RENAME COLUMN full_at TO filled_at", "column full_at is gone"),
        ("ALTER TABLE workmanager_limit DROP COLUMN full_at", "column full_at is gone"),
        ("DROP INDEX workmanager_limit_wake", "index workmanager_limit_wake is gone"),
        ("CREATE UNIQUE INDEX one_a_moment ON workmanager_limit (full_at)", "index one_a_moment refuses rows"),
        ("ALTER TABLE workmanager_limit ADD COLUMN a integer", ""),
        ("ALTER TABLE workmanager_limit ADD COLUMN a integer NOT NULL DEFAULT 0", ""),
        ("CREATE INDEX other ON workmanager_limit (full_at)", ""),
        ("CREATE TABLE workmanager_more (id integer)", ""),
    ],
)
def test_what_only_adds_is_told_from_what_takes_away(tmp_path: Path, statement: str, told: str):
    database = Database(f"sqlite:///{tmp_path / 'store.sqlite3'}")
    schema.migrate(database)
    before = anatomy(database)
    change(database, statement)
    found = broken(before, anatomy(database))
    database.close()
    assert [each for each in found if told in each] if told else found == []


def test_a_version_goes_on_with_a_later_schema_until_that_says_otherwise(database: Database):
    """An earlier version neither changes it nor fails; one that it fits no more is told to be upgraded."""
    schema.migrate(database)
    change(database, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    url = database.url.render_as_string(hide_password=False)
    store = make_store(url)
    put(store, "a")
    assert schema.migrate(store.database) == ("9999", "9999")
    with store.database.transaction() as connection:
        connection.execute(insert(fact).values(key=OLDEST_FACT, value=HEAD))
    assert schema.migrate(store.database) == ("9999", "9999")
    with store.database.transaction() as connection:
        connection.execute(update(fact).where(fact.c.key == OLDEST_FACT).values(value="9998"))
    store.close()
    refused = make_store(url)
    for call in (refused.open, lambda: schema.migrate(database)):
        with pytest.raises(StoreTooNew, match="fits 9998 and later; upgrade celery-workmanager"):
            call()
    refused.close()


def test_the_command_line_says_whether_a_later_schema_fits(tmp_path: Path):
    place = Place(tmp_path, f"sqlite:///{tmp_path / 'store.sqlite3'}")
    with closing(Database(place.store)) as database:
        schema.migrate(database)
        change(database, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
        fits = place.work(today(), "migrate", "--check")
        change(database, f"INSERT INTO workmanager_fact VALUES ('{OLDEST_FACT}', '9998')")
    refused = place.work(today(), "list")
    assert (fits.returncode, "fits this one" in fits.stdout) == (0, True)
    assert (refused.returncode, "upgrade celery-workmanager" in refused.stderr) == (1, True)


@pytest.mark.parametrize("oldest", [None, HEAD, "9998"])
def test_the_doctor_says_whether_a_later_schema_fits(tmp_path: Path, oldest: str | None):
    url = f"sqlite:///{tmp_path / 'store.sqlite3'}"
    store = make_store(url)
    store.open()
    change(store.database, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    if oldest is not None:
        change(store.database, f"INSERT INTO workmanager_fact VALUES ('{OLDEST_FACT}', '{oldest}')")
    manager = WorkManager.get_instance(upgrade_app.build(url, str(tmp_path), "today"))
    found = {each.code: each.severity for check in examine(manager, patience=0.1) for each in check.findings}
    wanted = {"schema-new": Severity.ERROR} if oldest == "9998" else {"schema-ahead": Severity.NOTE}
    assert {code: severity for code, severity in found.items() if code.startswith("schema")} == wanted
    manager.store.close()
    manager.engine_store.close()
    store.close()


def test_the_doctor_tells_that_two_versions_are_at_work(tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'store.sqlite3'}"
    manager = WorkManager.get_instance(upgrade_app.build(url, str(tmp_path), "today"))
    now = manager.clock.now()
    for version in ("1.0", "1.1"):
        facts = json.dumps({"version": version})
        manager.store.register(NodeRow(version, f"n{version}@h", "h", 1, 1, now, now + HOUR, facts))
    found = {each.code: each.seen for check in examine(manager, patience=0.1) for each in check.findings}
    assert "(1.0: n1.0@h; 1.1: n1.1@h)" in found["versions"]
    manager.store.close()


def test_a_version_refuses_an_earlier_schema_with_what_to_do(database: Database):
    """On a server and in a Django project; a file of its own it brings up to date."""
    with database.transaction() as connection:
        command.upgrade(alembic(connection), "0005")
    url = database.url.render_as_string(hide_password=False)
    with closing(Database(url, migrated_by="manage.py migrate")) as of_django:
        for call in (schema.ensure, schema.migrate):
            with pytest.raises(StoreNotMigrated, match="got: 0005; run `manage.py migrate`"):
                call(of_django)
    store = make_store(url)
    if not database.is_sqlite:
        with pytest.raises(StoreNotMigrated, match="got: 0005; run `celery -A proj work migrate`"):
            store.open()
        assert schema.migrate(database) == ("0005", HEAD)
    put(store, "a")
    store.close()
    with database.plain() as connection:
        assert (schema.revision_of(connection), schema.drift(connection)) == (HEAD, [])


def test_what_a_later_version_wrote_is_read_as_far_as_it_is_known(tmp_path: Path):
    """Stop reasons are unknown ones; pauses of unknown kinds are nobody's here."""
    store = make_store(f"sqlite:///{tmp_path / 'store.sqlite3'}")
    put(store, job("a"))
    with store.database.transaction() as connection:
        connection.execute(update(work).values(stop_reason=77))
        row = {"label": "east", "since": 0, "changed_at": 0, "token": 1, "phase": 1}
        connection.execute(insert(pause).values(kind="region", **row))
    assert info(store, "a").stop_reason is StopReason.UNKNOWN
    assert pausing.paused(store) == []
    pausing.go_on(store, {})
    pausing.pause(store, PauseTarget.of(queue="celery"))
    assert len(pausing.paused(store)) == 1
    store.close()


@pytest.mark.slow
def test_a_worker_waits_for_the_schema_it_needs_and_says_so(tmp_path: Path, postgresql_url: str):
    """It takes no works before; nobody has to start it again."""
    services.empty_database(postgresql_url)
    database = Database(postgresql_url)
    with database.engine().connect() as connection:
        command.upgrade(alembic(connection), "0005")
    place = Place(tmp_path, postgresql_url)
    manager = WorkManager.get_instance(upgrade_app.build(postgresql_url, str(tmp_path), "today"))
    try:
        place.worker(today())
        wait_until(lambda: "run `celery -A proj work migrate`" in place.log(today()), what="the worker says so")
        with database.plain() as connection:
            assert connection.execute(text("SELECT count(*) FROM workmanager_node")).scalar_one() == 0
        schema.migrate(database)
        request = OneTimeWorkRequest("upgrade.step")
        manager.enqueue(request)
        wait_until(lambda: manager.infos_of([request.id])[0].state.is_finished, what="it takes works")
    finally:
        place.close()
        manager.store.close()
        database.close()
