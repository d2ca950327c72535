"""`work doctor`: each thing that can be wrong is found, and what is right is not complained of."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner
from sqlalchemy import text

from celery_workmanager import Worker, WorkManager, schema
from celery_workmanager.cli import work
from celery_workmanager.database import Database
from celery_workmanager.doctor import Finding, Severity, examine, fleet, storage
from celery_workmanager.doctor.storage import filesystem_of
from celery_workmanager.overview import census
from celery_workmanager.store import Store
from celery_workmanager.store.leasing import NodeRow
from celery_workmanager.timing import SECOND
from tests import services
from tests.doors.conftest import Shell
from tests.doors.processes import APP, ROOT, celery, environment
from tests.stores import WORKER, job, put, put_chain, take_one, wait_until

SHOP = [WORKER, "celery_workmanager.combine"]


def make(store_url: str = "sqlite://", **conf: Any) -> WorkManager:
    app = Celery("shop", broker=conf.pop("broker", "memory://"), set_as_current=False)
    app.conf.update(conf)
    app.task(base=Worker, name=WORKER, shared=False)(_bake)
    return WorkManager(app, store_url=store_url)


def _bake(**_: Any) -> None:
    """Nothing."""


def findings(manager: WorkManager, patience: float = 0.1) -> dict[str, Finding]:
    return {finding.code: finding for check in examine(manager, patience=patience) for finding in check.findings}


def problems(manager: WorkManager) -> set[str]:
    return {code for code, finding in findings(manager).items() if finding.severity is not Severity.NOTE}


@pytest.fixture
def url(file: Store) -> str:
    """The URL of a migrated, empty store."""
    return file.database.shown_url


# -- configuration -----------------------------------------------------------------------------------------------


def test_every_wrong_setting_is_named():
    manager = make(workmanager_leese=5, workmanager_retention="long")
    found = [finding for check in examine(manager) for finding in check.findings if finding.code == "setting"]
    assert [finding.seen for finding in found] == [
        "expected a known setting, got: 'workmanager_leese'; did you mean 'workmanager_lease'?",
        "expected setting workmanager_retention to be a timedelta or a number of seconds, got: 'long'",
    ]
    assert {finding.severity for finding in found} == {Severity.ERROR}


@pytest.mark.parametrize(
    ("conf", "code"),
    [
        ({"accept_content": ["json", "pickle"]}, "pickle"),
        ({"result_accept_content": ["application/x-python-serialize"]}, "pickle"),
        ({"task_always_eager": True}, "eager"),
        ({"worker_pool": "nonsense"}, "pool-setting"),
        ({"broker_connection_retry": False}, "broker-retry"),
        ({"broker_connection_retry_on_startup": False}, "broker-retry"),
    ],
)
def test_a_setting_of_celery_that_breaks_a_promise_is_found(url: str, conf: dict[str, Any], code: str):
    assert problems(make(url, **conf)) == {code}


def test_a_project_in_order_has_no_problems(url: str):
    assert problems(make(url)) == set()
    assert problems(make(url, broker_connection_max_retries=None, worker_pool="threads")) == set()


# -- the broker --------------------------------------------------------------------------------------------------


def test_a_broker_that_does_not_answer_is_found_and_keeps_nothing_from_being_examined(url: str):
    manager = make(url, broker=f"redis://:secret@127.0.0.1:{services.free_port()}/0")
    found = findings(manager)
    assert "secret" not in found["broker-away"].seen
    assert found["broker-away"].severity is Severity.WARNING
    assert [check.name for check in examine(manager)] == [
        "configuration",
        "broker",
        "store",
        "nodes",
        "time",
        "queues",
        "constraints",
    ]


def test_a_private_broker_matters_to_ordinary_tasks_only(url: str):
    manager = make(url)
    assert problems(manager) == set()
    manager.app.task(name="mail", shared=False)(_bake)
    assert problems(manager) == {"broker-private"}
    assert "mail" in findings(manager)["broker-private"].means


@pytest.mark.parametrize(
    ("options", "conf", "severity", "named"),
    [
        ({}, {}, Severity.NOTE, False),
        ({"acks_late": True}, {}, Severity.NOTE, True),
        ({"acks_late": True, "time_limit": 60}, {}, Severity.NOTE, False),
        ({"acks_late": True, "time_limit": 7200}, {}, Severity.WARNING, True),
        ({"acks_late": True}, {"task_time_limit": 7200}, Severity.WARNING, True),
        ({"acks_late": True, "time_limit": 60}, {"visibility_timeout": 30}, Severity.WARNING, True),
    ],
)
def test_ordinary_tasks_that_redis_delivers_twice_are_found(
    url: str, options: dict[str, Any], conf: dict[str, Any], severity: Severity, named: bool
):
    broker = f"redis://127.0.0.1:{services.free_port()}/0"
    manager = make(url, broker=broker, broker_transport_options=conf, task_time_limit=conf.get("task_time_limit"))
    assert "visibility-timeout" not in findings(manager)
    manager.app.task(name="mail", shared=False, **options)(_bake)
    found = findings(manager)["visibility-timeout"]
    assert found.severity is severity
    assert ("mail" in found.seen) is named


def test_long_ordinary_tasks_with_acks_late_are_noted_on_rabbitmq(url: str):
    manager = make(url, broker=f"amqp://127.0.0.1:{services.free_port()}//")
    manager.app.task(name="quick", shared=False, acks_late=True, time_limit=60)(_bake)
    assert "consumer-timeout" not in findings(manager)
    manager.app.task(name="long", shared=False, acks_late=True)(_bake)
    assert "limit below 30 minutes: long." in findings(manager)["consumer-timeout"].seen


# -- the store ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("store_url", "code"), [("sqlite://", "store-memory"), ("no url", "store-url"), ("nodb://x/y", "store-url")]
)
def test_a_store_that_cannot_work_is_found(store_url: str, code: str):
    assert problems(make(store_url)) == {code}


def test_a_server_that_does_not_answer_is_found():
    found = findings(make(f"postgresql+psycopg://shop:secret@127.0.0.1:{services.free_port()}/shop"))
    assert found["store-away"].severity is Severity.ERROR
    assert "secret" not in found["store-away"].seen


def test_a_file_that_is_not_there_yet_is_noted_and_not_created(tmp_path: Path):
    path = tmp_path / "deeper" / "store.sqlite3"
    assert findings(make(f"sqlite:///{path}"))["store-new"].severity is Severity.NOTE
    assert list(tmp_path.iterdir()) == []
    assert findings(make("sqlite:////proc/store.sqlite3"))["store-new"].severity is (
        Severity.NOTE if os.access("/proc", os.W_OK) else Severity.ERROR
    )


def test_a_relative_path_is_noted_with_where_it_leads(url: str, file: Store, monkeypatch: pytest.MonkeyPatch):
    path = Path(str(file.database.url.database))
    monkeypatch.chdir(path.parent)
    found = findings(make(f"sqlite:///{path.name}"))["store-relative"]
    assert (found.severity, str(path) in found.seen) == (Severity.NOTE, True)
    assert "store-relative" not in findings(make(url))


def test_the_file_system_is_that_of_the_nearest_mount_point(tmp_path: Path):
    link = tmp_path / "link"
    link.symlink_to("/srv/share/data")
    mounts = [("/", "ext4"), ("/srv", "xfs"), ("/srv/share", "nfs4"), (str(tmp_path), "tmpfs")]
    kinds = [filesystem_of(Path(path), mounts) for path in ("/a/b", "/srv/x", "/srv/share/d/x", "/srv/shared/x")]
    assert kinds == ["ext4", "xfs", "nfs4", "xfs"]
    assert filesystem_of(link / "store.sqlite3", mounts) == "nfs4"
    assert filesystem_of(tmp_path / "store.sqlite3", mounts) == "tmpfs"
    assert filesystem_of(Path("/a"), []) == ""


def test_a_file_on_a_network_file_system_is_found(url: str, monkeypatch: pytest.MonkeyPatch):
    assert "store-network" not in findings(make(url))
    monkeypatch.setattr(storage, "filesystem_of", lambda *_: "nfs4")
    assert problems(make(url)) == {"store-network"}


@pytest.mark.parametrize(
    ("revision", "code"), [("0000", "schema-old"), ("9999", "schema-ahead"), (None, "schema-missing")]
)
def test_another_schema_is_found(store_url: str, revision: str | None, code: str):
    manager = make(store_url)
    database = manager.store.database
    schema.migrate(database)
    with database.transaction() as connection:
        change = (
            "DELETE FROM workmanager_version"
            if revision is None
            else f"UPDATE workmanager_version SET version_num = '{revision}'"
        )
        connection.execute(text(change))
    found = findings(manager)
    if code == "schema-ahead":
        assert (found[code].severity, problems(manager)) == (Severity.NOTE, set())
    elif database.is_sqlite:  # which its first use puts right
        assert (found["schema-old"].severity, problems(manager)) == (Severity.NOTE, set())
    else:
        assert found[code].severity is Severity.ERROR
    manager.store.close()


def test_tables_that_were_changed_by_hand_are_found(store: Store):
    manager = make(store.database.url.render_as_string(hide_password=False))
    assert "schema-drift" not in findings(manager)
    with store.database.transaction() as connection:
        connection.execute(text("DROP INDEX workmanager_work_due"))
        connection.execute(text("ALTER TABLE workmanager_node ADD COLUMN colour VARCHAR(9)"))
        connection.execute(text("CREATE TABLE strangers (id INTEGER)"))
    try:
        seen = findings(manager)["schema-drift"].seen
    finally:
        with store.database.transaction() as connection:
            connection.execute(text("DROP TABLE strangers"))
            connection.execute(text("ALTER TABLE workmanager_node DROP COLUMN colour"))
            partial = "CREATE INDEX workmanager_work_due ON workmanager_work (due_at) WHERE due_at IS NOT NULL"
            connection.execute(text(partial))
    manager.store.close()
    assert "missing index workmanager_work_due" in seen
    assert "unknown column workmanager_node.colour" in seen
    assert "strangers" not in seen


@pytest.mark.mariadb
def test_a_server_that_takes_only_short_statements_is_found(mariadb_store_url: str):
    assert "store-packet" not in findings(make(mariadb_store_url))
    roomy = make(mariadb_store_url, workmanager_call_max_bytes=1024 * 1024 * 1024)
    assert "max_allowed_packet" in findings(roomy)["store-packet"].do


def test_a_server_that_may_forget_commits_is_found(postgresql: Store):
    manager = make(postgresql.database.url.render_as_string(hide_password=False))
    assert "synchronous_commit = off" in findings(manager)["store-careless"].seen
    manager.store.close()


def test_clocks_that_differ_are_found(server: Store, monkeypatch: pytest.MonkeyPatch):
    manager = make(server.database.url.render_as_string(hide_password=False))
    assert "clock-skew" not in findings(manager)
    monkeypatch.setattr(storage, "time_of", lambda _: round((time.time() - 90) * SECOND))
    assert "90.0 s behind this machine's" in findings(manager)["clock-skew"].seen
    manager.store.close()


# -- nodes and queues --------------------------------------------------------------------------------------------


class Fleet:
    """A store with nodes, looked at by the app of a test."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.manager = make(store.database.shown_url)
        self.heard: dict[str, Any] = {}

    def node(
        self,
        name: str,
        *,
        queues: tuple[str, ...] = ("celery",),
        workers: Any = SHOP,
        lease: int = 15,
        host: str = "alpha/b1/p",
    ) -> str:
        facts = json.dumps({"queues": queues, "workers": workers})
        at = self.store.clock.now()
        self.store.register(NodeRow(name, f"celery@{name}", host, 1, 1, at, at + lease * SECOND, facts))
        return name

    def seen(self) -> fleet.Seen:
        with self.store.database.plain() as connection:
            return fleet.Seen(self.store.nodes(), census(connection), self.store.clock.now(), self.heard)

    def found(self) -> dict[str, Finding]:
        all_ = [*fleet.examine_nodes(self.manager, self.seen()), *fleet.examine_queues(self.manager, self.seen())]
        assert len({finding.code for finding in all_}) == len(all_)
        return {finding.code: finding for finding in all_}


@pytest.fixture
def ships(file: Store) -> Fleet:
    return Fleet(file)


def test_works_that_wait_without_a_node_are_an_error_and_none_a_note(ships: Fleet):
    assert {code: each.severity for code, each in ships.found().items()} == {"no-node": Severity.NOTE}
    put_chain(ships.store, "a", "b")
    put(ships.store, job("c", initial_delay=60))
    found = ships.found()
    assert {code: each.severity for code, each in found.items()} == {"no-node": Severity.ERROR}
    assert found["no-node"].seen == "No node is alive; waiting for one: 3 works."


def test_a_node_in_order_is_not_complained_of(ships: Fleet):
    ships.node("one")
    put(ships.store, "a", "b")
    take_one(ships.store, "a", "one")
    assert ships.found() == {}


def test_a_node_whose_lease_ended_is_found_with_what_it_holds(ships: Fleet):
    ships.node("one")
    ships.node("two", lease=-30)
    put(ships.store, "a", "b")
    take_one(ships.store, "a", "two")
    found = ships.found()
    assert found["node-lost"].seen == "The lease of node celery@two ended 30 s ago; still in its hands: 1 work."
    assert "A live node puts its works back" in found["node-lost"].means


def test_one_file_for_several_machines_is_an_error_but_not_for_several_containers_of_one(ships: Fleet):
    ships.node("one", host="box1/b1/p1")
    ships.node("two", host="box2/b1/p2")
    assert ships.found() == {}
    ships.node("three", host="beta/b2/p1")
    assert "Nodes on 2 machines share one SQLite file: beta, box1, box2." in ships.found()["store-shared"].seen


def test_a_worker_that_knows_ours_and_runs_no_works_is_found(ships: Fleet):
    ships.node("one")
    ships.heard = {
        "celery@one": {"tasks": SHOP, "pool": "prefork"},
        "celery@other": {"tasks": ["theirs", "celery_workmanager.combine"], "pool": "prefork"},
    }
    assert ships.found() == {}
    ships.heard["celery@two"] = {"tasks": SHOP, "pool": "celery.concurrency.eventlet:TaskPool"}
    assert "celery@two" in ships.found()["worker-without-node"].seen


def test_works_for_a_worker_that_nobody_has_are_found(ships: Fleet):
    ships.node("one")
    put(ships.store, job("a", worker="shop.gone"), job("b", worker="shop.gone", initial_delay=60))
    found = ships.found()
    assert found.keys() == {"worker-unknown"}
    assert found["worker-unknown"].seen == "This app has no worker 'shop.gone'; waiting for it: 2 works."
    assert "cancel --tag shop.gone" in found["worker-unknown"].do


def test_works_for_a_task_that_is_no_worker_any_more_are_found(ships: Fleet):
    ships.node("one")
    ships.manager.app.task(name="shop.plain", shared=False)(_bake)
    put(ships.store, job("a", worker="shop.plain"))
    found = ships.found()
    assert found.keys() == {"worker-taken-off"}
    ships.node("old", workers=[*SHOP, "shop.plain"])  # a node with the former code will run it
    assert ships.found() == {}


def test_works_in_a_queue_that_no_live_node_consumes_are_found(ships: Fleet):
    ships.node("one")
    ships.node("lost", queues=("photos",), lease=-1)
    put(ships.store, job("a", queue="photos"))
    assert ships.found()["unserved"].seen == (
        "No live node consumes queue 'photos'; waiting there for 'shop.bake': 1 work."
    )
    ships.node("old", queues=("photos",), workers=[])
    assert ships.found()["unserved"].seen.startswith("No live node of queue 'photos' has registered 'shop.bake'")
    ships.node("new", queues=("celery", "photos"))
    assert "unserved" not in ships.found()


def test_a_route_that_leads_where_nobody_listens_is_found(ships: Fleet):
    ships.node("one")
    ships.manager.app.conf.task_routes = {WORKER: "photos"}
    found = ships.found()
    assert found.keys() == {"route"}
    assert found["route"].seen == "Works of shop.bake go to queue 'photos', which no live node consumes."
    ships.node("two", queues=("photos",))
    assert ships.found() == {}


# -- what it prints ----------------------------------------------------------------------------------------------


def doctor(manager: WorkManager, *arguments: str) -> tuple[int, str]:
    context = CLIContext(manager.app, no_color=False, workdir=None)
    done = CliRunner().invoke(work, ["doctor", *arguments], obj=context)
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.exit_code, done.output


def test_it_tells_what_was_seen_what_it_means_and_what_to_do(on_file: Shell):
    put(on_file.store, "a", job("b", worker="shop.gone"))
    manager = make(on_file.store.database.shown_url, broker_connection_max_retries=None)
    assert doctor(manager) == (
        1,
        """\
✔ configuration
✔ broker
✔ store
✘ nodes
  ✘ ERROR No node is alive; waiting for one: 2 works.
    They run as soon as a worker starts.
    → Start a worker: `celery -A proj worker`.
✔ time
    Nobody keeps time.
✘ queues
  ✘ ERROR This app has no worker 'shop.gone'; waiting for it: 1 work.
    It was renamed or removed, or its module isn't imported: no node will run them.
    → Bring it back under this name until they have run, or cancel them: `celery -A proj work cancel
      --tag shop.gone`.
✔ constraints
2 errors.
""",
    )


def test_notes_are_no_problem(url: str):
    code, said = doctor(make(url))
    assert code == 0
    assert said.startswith("✔ configuration\n✔ broker\n  · NOTE broker_connection_max_retries is 100.\n")
    assert said.endswith("2 notes.\n")


def test_with_json_each_finding_has_a_code(url: str):
    code, said = doctor(make(url, task_always_eager=True), "--json")
    found = json.loads(said)
    assert (code, found["fine"]) == (1, False)
    assert found["checks"] == ["configuration", "broker", "store", "nodes", "time", "queues", "constraints"]
    assert [(each["check"], each["severity"], each["code"]) for each in found["findings"]] == [
        ("configuration", "warning", "eager"),
        ("broker", "note", "broker-max-retries"),
        ("nodes", "note", "no-node"),
    ]
    assert all(each["seen"] and each["means"] and each["do"] for each in found["findings"])


@contextmanager
def worker(store: Store, broker: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            celery(*APP, "worker", "-P", "threads", "-c", "1", "-n", "doctor@%h", "-Q", "doctor-shop"),
            cwd=ROOT,
            env=environment(store, SHOP_BROKER=broker, SHOP_QUEUE="doctor-shop"),
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.mark.redis
def test_a_running_worker_is_well_and_one_that_uses_another_store_is_found(
    file: Store, tmp_path: Path, free_redis: services.RedisServer
):
    conf: dict[str, Any] = {"broker": free_redis.url, "task_default_queue": "doctor-shop"}
    mine = make(file.database.shown_url, **conf)
    other = Database(f"sqlite:///{tmp_path / 'other.sqlite3'}")
    schema.migrate(other)

    with worker(file, free_redis.url, tmp_path / "worker.log"):
        theirs = make(other.shown_url, **conf)
        wait_until(lambda: file.nodes() and "worker-without-node" in findings(theirs, 0.5), seconds=60)
        assert "Worker doctor@" in findings(theirs, 5)["worker-without-node"].seen
        assert problems(mine) == set()
    other.close()
