"""The schema: who creates it, when it is refused, and that migrations and tables say the same."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from celery_workmanager import mysql, schema
from celery_workmanager.database import Database
from celery_workmanager.errors import StoreNotMigrated, StoreUnavailable
from celery_workmanager.migrations import HEAD, VERSION_TABLE
from celery_workmanager.tables import metadata_of
from tests import services
from tests.stores import make_store, put, rows_of, states


@pytest.fixture
def database(store_url: str) -> Iterator[Database]:
    made = Database(store_url)
    yield made
    made.close()


def alembic(connection: Connection | None = None) -> Config:
    config: Any = Config()
    config.set_main_option("script_location", str(files("celery_workmanager.migrations")))
    config.attributes["connection"] = connection
    return config


def scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(alembic())


def test_head_is_the_newest_script_and_there_is_one_line_of_scripts():
    assert scripts().get_heads() == [HEAD]
    assert len(list(scripts().walk_revisions("base", "heads"))) == int(HEAD)


def test_a_server_that_nobody_migrated_is_refused_with_the_command_that_helps():
    if services.why_not("postgresql"):
        pytest.skip("needs a server")
    url = services.make_database("wm_unmigrated")
    store = make_store(url)
    try:
        with pytest.raises(StoreNotMigrated, match="work migrate"):
            put(store, "a")
        assert schema.migrate(store.database) == (None, HEAD)
        put(store, "a")
        with store.database.transaction() as connection:
            connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '0000'"))
        older = make_store(url)
        with pytest.raises(StoreNotMigrated, match="0000"):
            put(older, "b")
        older.close()
    finally:
        store.close()
        services.drop_database("wm_unmigrated")


def test_tables_that_vanish_are_reported_as_not_migrated(database: Database):
    store = make_store(database.url.render_as_string(hide_password=False))
    schema.migrate(database)
    put(store, "a")
    with database.transaction() as connection:
        connection.execute(text("DROP TABLE workmanager_work"))
    with pytest.raises(StoreNotMigrated):
        put(store, "b")
    store.close()


def test_an_embedded_store_is_created_in_passing_with_its_folder(tmp_path: Path):
    store = make_store(f"sqlite:///{tmp_path / 'deep' / 'store.sqlite3'}")
    put(store, "a")
    assert states(store) == {"a": "ENQUEUED"}
    store.close()


def test_migrating_twice_does_nothing_the_second_time(database: Database):
    assert schema.migrate(database) == (None, HEAD)
    assert schema.migrate(database) == (HEAD, HEAD)
    with database.plain() as connection:
        assert schema.revision_of(connection) == HEAD


def test_migrations_and_tables_say_the_same(database: Database):
    """Tables, columns, types, keys and indexes, those with conditions included."""
    schema.migrate(database)
    options = {"compare_type": True, "compare_server_default": True, "version_table": VERSION_TABLE}
    metadata = metadata_of(database.dialect)
    with database.plain() as connection:
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []
        found = inspect(connection)
        indexes = {each["name"]: each for table in metadata.tables for each in found.get_indexes(table)}
        assert indexes.keys() == {index.name for table in metadata.tables.values() for index in table.indexes}
        for table in metadata.tables.values():
            for index in table.indexes:
                _same(found.get_indexes(table.name), index, connection.dialect.name)


def _same(found: list[Any], index: Any, dialect: str) -> None:
    (stored,) = [each for each in found if each["name"] == index.name]
    assert stored["column_names"] == [column.name for column in index.columns]
    condition = None if dialect in mysql.DIALECTS else index.dialect_options[dialect]["where"]
    stored_condition = stored.get("dialect_options", {}).get(f"{dialect}_where")
    assert (condition is None) == (stored_condition is None)
    if condition is not None:
        (guard,) = [column.name for column in condition.get_children() if hasattr(column, "name")]
        assert str(stored_condition).strip("()").split(".")[-1] == f"{guard} IS NOT NULL"


@pytest.mark.mariadb
def test_on_mariadb_every_text_is_compared_by_its_characters_and_may_be_long(mariadb_url: str):
    """Also in tables and columns that a later migration adds."""
    services.empty_database(mariadb_url)
    database = Database(mariadb_url)
    schema.migrate(database)
    of_ours = "table_schema = database() AND table_name LIKE 'workmanager%'"
    with database.plain() as connection:
        engines = connection.execute(text(f"SELECT DISTINCT engine FROM information_schema.tables WHERE {of_ours}"))
        columns = f"SELECT DISTINCT data_type, collation_name FROM information_schema.columns WHERE {of_ours}"
        texts = connection.execute(text(f"{columns} AND collation_name IS NOT NULL")).all()
        assert engines.scalars().all() == ["InnoDB"]
    assert {tuple(each) for each in texts} == {("varchar", "utf8mb4_nopad_bin"), ("longtext", "utf8mb4_nopad_bin")}
    database.close()


def test_the_schema_can_be_taken_back_and_made_again(database: Database):
    schema.migrate(database)
    with database.transaction() as connection:
        command.downgrade(alembic(connection), "base")
        left = [each for each in inspect(connection).get_table_names() if each != VERSION_TABLE]
        assert left == []
    assert schema.migrate(database) == (None, HEAD)
    store = make_store(database.url.render_as_string(hide_password=False))
    put(store, "a")
    assert rows_of(store, "work") == 1
    store.close()


def test_a_migration_that_breaks_leaves_nothing_behind(database: Database, monkeypatch: pytest.MonkeyPatch):
    with database.transaction() as connection:
        connection.execute(text("CREATE TABLE workmanager_work (id integer)"))
    with pytest.raises(Exception, match="workmanager_work"):
        schema.migrate(database)
    with database.plain() as connection:
        assert schema.revision_of(connection) is None
        if not database.is_mysql:  # which takes no change of a table back
            assert set(inspect(connection).get_table_names()) == {"workmanager_work"}


ENQUEUE = """
import sys
import threading
from tests.stores import make_store, put
store = make_store(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
put(store, *(f"{sys.argv[2]}-{n}" for n in range(5)))
"""


def test_several_processes_may_use_a_new_embedded_store_at_the_same_time(tmp_path: Path):
    """Each finds no schema; one creates it, the others wait and find it."""
    url = f"sqlite:///{tmp_path / 'store.sqlite3'}"
    command_line = [sys.executable, "-c", ENQUEUE, url]
    root = Path(__file__).parents[2]
    processes = [
        subprocess.Popen(
            [*command_line, str(n)],
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(4)
    ]
    for each in processes:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for each in processes:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    ends = [(each.communicate(timeout=60)[1], each.returncode) for each in processes]
    assert ends == [("", 0)] * 4
    store = make_store(url)
    assert len(states(store)) == 20
    store.close()


def test_a_server_that_does_not_answer_is_unavailable_and_its_password_unsaid():
    store = make_store("postgresql+psycopg://user:secret@127.0.0.1:9/nowhere")
    with pytest.raises(StoreUnavailable) as caught:
        put(store, "a")
    assert "secret" not in str(caught.value)
    store.close()


def test_connections_that_make_one_new_file_a_wal_file_wait_for_each_other(tmp_path: Path):
    """SQLite says "locked" at once to those who lose this change; they try again."""

    def opens(number: int) -> str:
        database = Database(f"sqlite:///{tmp_path / f'{number // 4}.sqlite3'}")
        meet.wait(timeout=10)
        try:
            with database.plain() as connection:
                return connection.execute(text("PRAGMA journal_mode")).scalar_one()
        finally:
            database.close()

    meet = threading.Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(opens, range(200))) == {"wal"}
