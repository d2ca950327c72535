"""Roles of a database with the rights that `work grants` prints: each does its part, and is refused the rest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, text

from celery_workmanager import (
    ExistingPeriodicWorkPolicy,
    ExistingWorkPolicy,
    OneTimeWorkRequest,
    PeriodicWorkRequest,
    State,
    WorkManager,
    schema,
)
from celery_workmanager.database import Database
from celery_workmanager.errors import StoreForbidden, UnsupportedOperation, WorkManagerError
from celery_workmanager.grants import Role, statements
from celery_workmanager.query import WorkQuery
from celery_workmanager.tables import metadata
from tests import services
from tests.conftest import need
from tests.doors.conftest import Shell
from tests.stores import make_store, put
from tests.story import story_app
from tests.story.cluster import Cluster, running_cluster, why_not
from tests.story.workers import StoryWorker, wait_until

KEEP, REPLACE, APPEND = ExistingWorkPolicy.KEEP, ExistingWorkPolicy.REPLACE, ExistingWorkPolicy.APPEND
STEP, PASSWORD = "story.step", "pass-of-role"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with running_cluster() as made:
        for role in Role:
            services.administer(f"CREATE ROLE {role.value} LOGIN PASSWORD '{PASSWORD}'", url=made.url)
        grant(made.url, Role.MIGRATE)
        services.administer("REVOKE CREATE ON SCHEMA public FROM PUBLIC", url=made.url)
        schema_of(url_of(made, Role.MIGRATE))
        for role in (Role.ENQUEUE, Role.OBSERVE, Role.WORK):
            grant(url_of(made, Role.MIGRATE), role)
            grant(url_of(made, Role.MIGRATE), role)  # safe to repeat
        yield made


def schema_of(url: str) -> None:
    database = Database(url)
    schema.migrate(database)
    database.close()


def grant(url: str, role: Role) -> None:
    services.administer(*statements(role, role.value, Database(url)), url=url)


def url_of(cluster: Cluster, role: Role) -> str:
    login = make_url(cluster.url).set(username=role.value, password=PASSWORD)
    return login.render_as_string(hide_password=False)


@pytest.fixture(scope="module")
def connected(cluster: Cluster) -> Iterator[dict[Role, WorkManager]]:
    made = {role: WorkManager.get_instance(story_app.build(url_of(cluster, role), name_wait=2.0)) for role in Role}
    yield made
    for each in made.values():
        each.store.close()


@pytest.fixture
def managers(cluster: Cluster, connected: dict[Role, WorkManager]) -> dict[Role, WorkManager]:
    """A manager under each role, over the same empty store."""
    services.administer("BEGIN", *(f"DELETE FROM {table}" for table in metadata.tables), "COMMIT", url=cluster.url)
    return connected


def sql(manager: WorkManager, statement: str) -> int:
    """Run it under the manager's role; how many rows it was about."""
    with manager.store.database.transaction() as connection:
        return connection.execute(text(statement)).rowcount


def step(**options: Any) -> OneTimeWorkRequest:
    return OneTimeWorkRequest(STEP, **options)


def states(manager: WorkManager) -> dict[str, State]:
    return {info.id: info.state for info in manager.get_work_infos(WorkQuery())}


@pytest.mark.slow
def test_who_may_enqueue_does_so_in_every_way_and_a_worker_drains_it(cluster, managers, tmp_path: Path):
    web, reader = managers[Role.ENQUEUE], managers[Role.OBSERVE]
    web.enqueue([step(tags=["a"]), step()])
    web.begin_with(step()).then([step(), step()]).then(step()).enqueue()
    assert web.enqueue_unique_work("name", KEEP, step()).applied
    assert not web.enqueue_unique_work("name", KEEP, step()).applied
    assert web.enqueue_unique_work("name", APPEND, step()).applied
    web.app.tasks[STEP].delay()
    daily = PeriodicWorkRequest(STEP, repeat_interval=86400, initial_delay=86400)
    assert web.enqueue_unique_periodic_work("daily", ExistingPeriodicWorkPolicy.KEEP, daily).applied
    with web.store.database.engine().begin() as connection:
        web.enqueue(step(), connection=connection)
    worker = StoryWorker(tmp_path, url_of(cluster, Role.WORK), poll_interval=0.1)
    try:
        worker.start()
        wait_until(lambda: [*states(reader).values()].count(State.SUCCEEDED) == 10, what="works that succeeded")
        worker.terminate()
    finally:
        worker.end()
    # The name's works are finished: KEEP gives them up for the new one.
    before = states(reader)
    assert web.enqueue_unique_work("name", KEEP, step(tags=["late"])).applied
    after = states(reader)
    assert (len(before), len(after)) == (11, 10)
    assert "permission denied" not in worker.log


def test_works_that_a_pause_holds_are_enqueued(managers):
    managers[Role.WORK].pause(tag="held")
    managers[Role.ENQUEUE].enqueue(step(tags=["held"]))
    (info,) = managers[Role.OBSERVE].get_work_infos(WorkQuery())
    assert info.paused
    managers[Role.WORK].resume(tag="held")


@pytest.mark.parametrize(
    "call",
    [
        lambda web, key: web.cancel_work_by_id(key),
        lambda web, key: web.cancel_all_work(),
        lambda web, key: web.enqueue_unique_work("name", REPLACE, step()),
        lambda web, key: web.update_work(step(id=key)),
        lambda web, key: web.pause(queue="celery"),
        lambda web, key: web.prune_work(),
        lambda web, key: web.get_work_info_by_id(key),
        lambda web, key: web.get_work_infos(WorkQuery()),
    ],
)
def test_who_may_enqueue_is_told_that_the_rest_is_forbidden(managers, call):
    web = managers[Role.ENQUEUE]
    operation = web.enqueue_unique_work("name", KEEP, step())
    with pytest.raises(StoreForbidden, match="expected the role of store .* to have the right, got: permission denied"):
        call(web, operation.ids[0])
    assert set(states(managers[Role.OBSERVE]).values()) == {State.ENQUEUED}


@pytest.mark.parametrize(
    "statement",
    [
        *(f"UPDATE workmanager_work SET {column} = DEFAULT" for column in (
            "state", "output", "input", "token", "node", "error", "worker", "queue", "options", "finished_at",
        )),
        *(f"SELECT {column} FROM workmanager_work" for column in ("input", "output", "progress", "error")),
        "UPDATE workmanager_edge SET position = 0",
        "DELETE FROM workmanager_name",
        "DELETE FROM workmanager_node",
        "INSERT INTO workmanager_pause SELECT * FROM workmanager_pause",
        "SELECT * FROM workmanager_result",
        "SELECT * FROM workmanager_run",
        "UPDATE workmanager_version SET version_num = '0'",
        "TRUNCATE workmanager_work",
        "ALTER TABLE workmanager_work ADD COLUMN more int",
        "ALTER TABLE workmanager_work DISABLE ROW LEVEL SECURITY",
        "DROP TABLE workmanager_tag",
        "CREATE TABLE mine (id int)",
    ],
)  # fmt: skip
def test_sql_of_whoever_holds_that_password_is_refused(connected, statement):
    with pytest.raises(Exception, match="permission denied|must be owner"):
        sql(connected[Role.ENQUEUE], statement)


def test_only_finished_works_can_be_deleted(managers):
    managers[Role.ENQUEUE].begin_unique_work("name", KEEP, step(tags=["a"])).then(step()).enqueue()
    for table in ("edge", "tag", "member", "work"):
        assert sql(managers[Role.ENQUEUE], f"DELETE FROM workmanager_{table}") == 0
    managers[Role.WORK].cancel_all_work()
    for table in ("edge", "tag", "member", "work"):
        assert sql(managers[Role.ENQUEUE], f"DELETE FROM workmanager_{table}") > 0


def test_who_may_observe_reads_everything_and_changes_nothing(managers):
    managers[Role.WORK].enqueue(step())
    reader = managers[Role.OBSERVE]
    (info,) = reader.get_work_infos(WorkQuery())
    assert reader.explain(info.id)
    for table in metadata.tables:
        sql(managers[Role.OBSERVE], f"SELECT * FROM {table}")
        for statement in (f"DELETE FROM {table}", f"INSERT INTO {table} SELECT * FROM {table}", f"TRUNCATE {table}"):
            with pytest.raises(WorkManagerError, match="permission denied"):
                sql(managers[Role.OBSERVE], statement)
    for call in (reader.cancel_all_work, lambda: reader.enqueue(step())):
        with pytest.raises(StoreForbidden):
            call()


@pytest.mark.parametrize("role", [Role.OBSERVE, Role.WORK, Role.MIGRATE])
def test_the_doctor_sees_a_store_through_each_role_that_reads_it(cluster, managers, role):
    shell = Shell(make_store(url_of(cluster, role)))
    try:
        answer = shell("doctor", "--json")
        assert [each for each in answer.json["findings"] if each["check"] == "store"] == []
    finally:
        shell.store.close()


def test_a_worker_changes_no_table(connected):
    for statement in (
        "ALTER TABLE workmanager_work ADD COLUMN more int",
        "DROP TABLE workmanager_tag",
        "CREATE TABLE mine (id int)",
        "TRUNCATE workmanager_work",
        "UPDATE workmanager_version SET version_num = '0'",
    ):
        with pytest.raises(Exception, match="permission denied|must be owner"):
            sql(connected[Role.WORK], statement)


def test_the_command_prints_what_can_be_fed_to_psql(cluster):
    shell = Shell(make_store(cluster.url))
    try:
        answer = shell("grants", "observe", 'o"dd')
        said = shell("grants", "enqueue", "web", "--schema", "works", "--json").json
    finally:
        shell.store.close()
    lines = answer.text.splitlines()
    assert (lines[0], lines[-1]) == ("BEGIN;", "COMMIT;")
    assert 'GRANT SELECT ON "public".workmanager_work TO "o""dd";' in lines
    assert (said["role"], said["to"]) == ("enqueue", "web")
    assert all('"works"' in each for each in said["statements"])


def test_others_pay_nothing_for_what_an_enqueuing_role_may_not_do(managers):
    """The policy for everybody is no condition of any statement."""
    with managers[Role.WORK].store.database.transaction() as connection:
        plan = connection.execute(text("EXPLAIN DELETE FROM workmanager_work WHERE id = 'a'")).scalars().all()
    assert not any("Filter" in line or "SubPlan" in line for line in plan), plan


def test_a_file_has_no_roles(tmp_path):
    with pytest.raises(UnsupportedOperation, match="SQLite knows no roles"):
        statements(Role.WORK, "web", Database(f"sqlite:///{tmp_path / 'store'}"))


@pytest.mark.mariadb
def test_mariadb_knows_workers_and_observers(mariadb_store_url):
    need("mariadb")
    url = make_url(mariadb_store_url)
    with pytest.raises(UnsupportedOperation, match="can't restrict which rows"):
        statements(Role.ENQUEUE, "web@localhost", Database(url))
    names = {role: f"wm_{role.value}_{url.database}"[:80] for role in (Role.OBSERVE, Role.WORK)}
    database = Database(url)
    try:
        for role, name in names.items():
            made = f"CREATE USER '{name}'@'%' IDENTIFIED BY '{PASSWORD}'"
            services.administer(made, *statements(role, name, database), url=mariadb_store_url)
        login = make_url(mariadb_store_url).set(password=PASSWORD)
        as_role = {role: login.set(username=name).render_as_string(hide_password=False) for role, name in names.items()}
        worker, reader = make_store(as_role[Role.WORK]), make_store(as_role[Role.OBSERVE])
        try:
            put(worker, "a")
            assert [info.id for info in reader.work_infos(WorkQuery(ids=("a",)))] == ["a"]
            with pytest.raises(StoreForbidden, match="command denied"):
                put(reader, "b")
            assert worker.cancel("a") == ["a"]
        finally:
            worker.close()
            reader.close()
    finally:
        database.close()
        services.administer(*(f"DROP USER IF EXISTS '{name}'@'%'" for name in names.values()), url=mariadb_store_url)
