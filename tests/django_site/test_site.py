"""The project in `django_site`: Django's own test runner in it, its tables, and a real worker beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, inspect, text

from celery_workmanager import schema
from celery_workmanager.database import Database
from celery_workmanager.migrations import HEAD, VERSION_TABLE
from celery_workmanager.tables import metadata
from tests import services
from tests.celery.pool_worker import ROOT, wait_until
from tests.conftest import SERVERS, STORES, need

_SERVERS = {"postgresql": services.POSTGRESQL_URL, "mariadb": services.MARIADB_URL}


class Site:
    """The project with a database."""

    def __init__(self, url: str, **environment: str) -> None:
        self.url = url
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
            "DJANGO_SETTINGS_MODULE": "tests.django_site.settings",
            "SITE_DATABASE_URL": url,
            **environment,
        }

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """`python -m …` in the project."""
        return subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env=self._environment, cwd=ROOT, stdin=subprocess.DEVNULL, text=True, **options,
        )  # fmt: skip

    def run(self, *arguments: str, ends_with: int = 0) -> None:
        """The same to its end, which is expected to be this one."""
        process = self.start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        told, _ = process.communicate(timeout=100)
        assert process.returncode == ends_with, told

    def test(self, *labels: str) -> None:
        """`manage.py test`."""
        self.run("django", "test", *(labels or ("tests.django_site",)), "--pattern", "tests_*.py", "--noinput")

    def migrate(self) -> None:
        """`manage.py migrate`."""
        self.run("django", "migrate", "--run-syncdb", "--verbosity", "0")


@contextmanager
def address(kind: str, folder: Path, purpose: str) -> Iterator[str]:
    """The URL of an empty database."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / purpose}.sqlite3"
        return
    need(kind)
    name = f"wm_{purpose}_{os.getpid()}"
    server = _SERVERS[kind]
    try:
        yield services.make_database(name, server)
    finally:
        services.drop_database(name, server)


# -- Django's own test runner ----------------------------------------------------------------------------------------

#: What may differ from one database to another.
ON_A_DATABASE = ("tests.django_site.tests_kit", "tests.django_site.tests_transactions")


def test_the_project_s_tests_in_memory():
    Site("sqlite://").test()


def test_the_project_s_tests_on_a_file(tmp_path: Path):
    Site(f"sqlite:///{tmp_path}/site.sqlite3").test(*ON_A_DATABASE)


@pytest.mark.parametrize("kind", SERVERS)
def test_the_project_s_tests_on_a_server(kind: str):
    need(kind)
    Site(f"{_SERVERS[kind].rpartition('/')[0]}/wm_tests_{os.getpid()}").test(*ON_A_DATABASE)


@pytest.mark.postgresql
def test_transactions_on_a_pool_of_connections():
    need("postgresql")
    url = f"{services.POSTGRESQL_URL.rpartition('/')[0]}/wm_pool_{os.getpid()}"
    Site(url, SITE_POOL="1").test("tests.django_site.tests_transactions")


# -- the tables ----------------------------------------------------------------------------------------------------


@pytest.fixture(params=STORES)
def two_urls(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    with address(request.param, tmp_path, "django") as first, address(request.param, tmp_path, "alembic") as second:
        yield first, second


def anatomy(url: str) -> dict[str, Any]:
    """All that a database knows of our tables."""
    engine = create_engine(url)
    look = inspect(engine)
    found = {}
    for table in sorted(name for name in look.get_table_names() if name.startswith("workmanager_")):
        columns = [
            (each["name"], str(each["type"]).partition(" ")[0], each["nullable"], str(each["default"]).strip("'"))
            for each in look.get_columns(table)
        ]
        indexes = [
            (each["name"], each["column_names"], each["unique"], _condition(each)) for each in look.get_indexes(table)
        ]
        found[table] = (
            sorted(columns),
            _collations(engine, table),
            look.get_pk_constraint(table)["constrained_columns"],
            sorted(indexes),
        )
    engine.dispose()
    return found


def _collations(engine: Engine, table: str) -> list[Any]:
    """How a MariaDB compares texts: by each column, whatever was said of it and of its table."""
    if engine.dialect.name != "mariadb" or table == VERSION_TABLE:
        return []
    asked = (
        "SELECT column_name, character_set_name, collation_name FROM information_schema.columns"
        " WHERE table_schema = database() AND table_name = :table ORDER BY column_name"
    )
    with engine.connect() as connection:
        return list(map(tuple, connection.execute(text(asked), {"table": table})))


def _condition(index: Any) -> str:
    options = index.get("dialect_options") or {}
    found = [str(value) for key, value in options.items() if key.endswith("_where")]
    return "".join(found).replace('"', "").strip("()")


def test_django_s_migrations_and_the_store_s_own_make_the_same_tables(two_urls: tuple[str, str]):
    """Column by column, index by index, and the revision that they stand for."""
    of_django, of_alembic = two_urls
    Site(of_django).migrate()
    database = Database(of_alembic)
    schema.migrate(database)
    database.close()
    found = anatomy(of_django)
    assert found.keys() == metadata.tables.keys() | {VERSION_TABLE}
    assert found == anatomy(of_alembic)
    database = Database(of_django)
    schema.ensure(database)
    with database.plain() as connection:
        assert schema.revision_of(connection) == HEAD
        assert schema.drift(connection) == []
    database.close()


# -- a worker beside it ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=STORES)
def busy_site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The project, its database migrated by Django, and a worker."""
    folder = tmp_path_factory.mktemp("site")
    with address(request.param, folder, "site") as url:
        site = Site(url)
        site.migrate()
        log = folder / "log"
        with log.open("w") as out:
            worker = site.start(
                "celery", "-A", "tests.django_site", "worker", "-l", "INFO", "-c", "2", stdout=out, stderr=out
            )
        try:
            wait_until(lambda: " ready." in log.read_text(), 30, "the worker is ready")
            yield site
        finally:
            worker.terminate()
            worker.wait(timeout=30)
        assert "Traceback" not in log.read_text()


def test_what_a_view_and_a_work_enqueue_is_run(busy_site: Site):
    busy_site.run("tests.django_site.scenes", "requests")


def test_what_was_committed_runs_though_its_process_died_before_it_could_tell(busy_site: Site):
    busy_site.run("tests.django_site.scenes", "crash", ends_with=3)
    busy_site.run("tests.django_site.scenes", "after_the_crash")


def test_finishing_does_not_wait_for_an_open_transaction(busy_site: Site):
    if busy_site.url.startswith("sqlite"):
        pytest.skip("SQLite has one writer at a time")
    busy_site.run("tests.django_site.scenes", "hold")


@pytest.mark.slow
@pytest.mark.skipif("WORKMANAGER_SOAK" not in os.environ, reason="a minute long: WORKMANAGER_SOAK asks for it")
def test_a_transaction_that_is_open_for_a_minute(busy_site: Site):
    """On SQLite all writers wait for it, the worker's too: no word of theirs is lost, nothing is run twice."""
    busy_site.run("tests.django_site.scenes", "hold", "60")
