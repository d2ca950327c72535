"""Migrating beside running programs: two at once, one that is killed, and long transactions that must stop nobody."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import inspect, text

from celery_workmanager import schema
from celery_workmanager.database import Database
from celery_workmanager.migrations import HEAD
from tests import services
from tests.store.test_schema import alembic
from tests.stores import holding, make_store, meanwhile, put, together
from tests.story.workers import wait_until
from tests.upgrade.dying import migrate_until
from tests.upgrade.versions import ROOT, coming

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def database(store_url: str) -> Iterator[Database]:
    made = Database(store_url)
    yield made
    made.close()


def url_of(database: Database) -> str:
    return database.url.render_as_string(hide_password=False)


def state_of(database: Database) -> tuple[str | None, list[str]]:
    with database.plain() as connection:
        return schema.revision_of(connection), schema.drift(connection)


def test_of_two_that_migrate_at_once_one_does_and_the_other_waits(database: Database):
    with closing(Database(url_of(database))) as other:
        told = together(lambda: schema.migrate(database), lambda: schema.migrate(other))
    assert sorted(told, key=str) == [(HEAD, HEAD), (None, HEAD)]
    assert state_of(database) == (HEAD, [])


def test_one_that_is_killed_in_the_middle_is_completed_by_the_next(database: Database):
    dying = [sys.executable, "-m", "tests.upgrade.dying", url_of(database), "23"]
    died = subprocess.run(dying, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert died.returncode == 9, died.stderr
    with database.plain() as connection:
        assert schema.revision_of(connection) != HEAD
    schema.migrate(database)
    assert state_of(database) == (HEAD, [])


class Died(Exception):
    pass


@pytest.mark.mariadb
def test_on_mariadb_it_may_die_again_and_again(mariadb_url: str):
    """There a change of a table can't be taken back: each try goes on where the one before it ended, a bit further."""
    services.empty_database(mariadb_url)

    def die() -> None:
        raise Died

    database = Database(mariadb_url)
    with database.transaction() as connection:
        command.upgrade(alembic(connection), "0004")
    tries = 0
    while True:
        try:
            migrate_until(mariadb_url, tries + 1, die)
        except Died:
            tries += 1
        else:
            break
    assert tries > 3
    assert state_of(database) == (HEAD, [])
    database.close()


@pytest.mark.postgresql
@pytest.mark.timeout(240)
def test_a_migration_that_waits_for_a_long_transaction_stops_nobody_else(
    postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It gives up its place in the queue for the table again and again, and comes to its end after that transaction.

    A second one waits for it in such a way that it doesn't wait for the second one.
    """
    services.empty_database(postgresql_url)
    store, one, two = make_store(postgresql_url), Database(postgresql_url), Database(postgresql_url)
    schema.migrate(store.database)
    put(store, "a")
    after = coming(tmp_path)
    monkeypatch.setattr(schema, "HEAD", after.revision)
    monkeypatch.setattr(schema, "files", lambda _: after.folder / "celery_workmanager" / "migrations")
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"
    with meanwhile(lambda: together(lambda: schema.migrate(one), lambda: schema.migrate(two))) as done:
        with holding(store, "a"):
            for number in range(2):
                wait_until(lambda: _count(store.database, waiting), what="the migration waits for the table")
                put(store, f"b-{number}")
            assert not done.done()
        assert sorted(done.result(timeout=60)) == [(HEAD, after.revision), (after.revision, after.revision)]
    with store.database.plain() as connection:
        assert schema.revision_of(connection) == after.revision
        assert "colour" in {each["name"] for each in inspect(connection).get_columns("workmanager_work")}
        broken = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"
        assert connection.execute(text(broken)).scalar_one() == 0
        names = {each["name"] for each in inspect(connection).get_indexes("workmanager_work")}
        assert "workmanager_work_colour" in names
    one.close()
    two.close()
    store.close()


def _count(database: Database, question: str) -> int:
    with database.plain() as connection:
        return int(connection.execute(text(question)).scalar_one())
