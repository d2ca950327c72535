"""What tests of the store share: stores to try, and short words for what producers, nodes and readers do with them."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, make_url, select, text

from celery_workmanager import schema
from celery_workmanager.clock import HeldClock
from celery_workmanager.database import Database
from celery_workmanager.lanes import lanes_of
from celery_workmanager.outcome import Claim, Ending, Outcome
from celery_workmanager.periodic import PeriodicWorkRequest
from celery_workmanager.planning import Insertion, Step
from celery_workmanager.policies import ExistingPeriodicWorkPolicy, ExistingWorkPolicy
from celery_workmanager.query import WorkQuery
from celery_workmanager.requests import OneTimeWorkRequest, WorkRequest
from celery_workmanager.settings import Settings
from celery_workmanager.store import Settled, Store
from celery_workmanager.store.leasing import NodeRow
from celery_workmanager.tables import metadata, work
from celery_workmanager.terms import Terms
from celery_workmanager.timing import SECOND
from celery_workmanager.verdict import Verdict, judge
from celery_workmanager.work import State, WorkInfo
from tests import services
from tests.conftest import FEW_STORES, SERVERS, STORES, need

__all__ = [
    "few_store_addresses", "mariadb_store_url", "postgresql", "postgresql_store_url", "server", "sqlite_template",
    "store", "store_address",
]  # fmt: skip

START = 1_900_000_000 * SECOND
HOUR = 3600 * SECOND
QUEUE = "celery"
WORKER = "shop.bake"
KEEP, REPLACE = ExistingWorkPolicy.KEEP, ExistingWorkPolicy.REPLACE
APPEND, APPEND_OR_REPLACE = ExistingWorkPolicy.APPEND, ExistingWorkPolicy.APPEND_OR_REPLACE

_numbers = itertools.count(1)


# -- stores --------------------------------------------------------------------------------------------------


def make_store(url: str, *, clock: HeldClock | None = None, name_wait: float = 5.0, **settings: Any) -> Store:
    """A store as another process would have it: connections and a clock of its own."""
    terms = Terms.of(Settings(store_url=url, **settings))
    return Store(Database(url, lock_wait=name_wait), clock or HeldClock(START), terms, name_wait=name_wait)


def twin(of: Store, **settings: Any) -> Store:
    """A second store over the same database and under the same clock."""
    url = of.database.url.render_as_string(hide_password=False)
    assert isinstance(of.clock, HeldClock)
    return make_store(url, clock=of.clock, **settings)


@pytest.fixture(scope="session")
def postgresql_store_url() -> Iterator[str]:
    """A migrated PostgreSQL database that all tests of the store empty and use in turn."""
    need("postgresql")
    with _migrated(services.POSTGRESQL_URL) as url:
        # These tests are about what is written, not about power cuts: nothing needs to wait for the disk.
        services.administer(f'ALTER DATABASE "{make_url(url).database}" SET synchronous_commit TO off')
        yield url


@pytest.fixture(scope="session")
def mariadb_store_url() -> Iterator[str]:
    """The same on MariaDB."""
    need("mariadb")
    with _migrated(services.MARIADB_URL) as url:
        yield url


@contextmanager
def _migrated(server: str) -> Iterator[str]:
    name = f"wm_store_{os.getpid()}"
    url = services.make_database(name, server)
    database = Database(url)
    schema.migrate(database)
    database.close()
    yield url
    services.drop_database(name, server)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy: migrating takes longer than most tests."""
    path = tmp_path_factory.mktemp("template") / "store.sqlite3"
    database = Database(f"sqlite:///{path}")
    schema.migrate(database)
    database.close()
    return path


@pytest.fixture(params=STORES)
def store_address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a migrated, empty store, on each database in turn."""
    return _address(request, tmp_path)


@pytest.fixture(params=FEW_STORES, name="store_address")
def few_store_addresses(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same on fewer of them."""
    return _address(request, tmp_path)


def _address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        path = tmp_path / "store.sqlite3"
        shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
        return f"sqlite:///{path}"
    return emptied(request.getfixturevalue(f"{request.param}_store_url"))


def emptied(url: str) -> str:
    """The server's store at `url` without its rows, and without whoever still holds some."""
    services.throw_out(str(make_url(url).database), url)
    # In one transaction: there is one wait for the disk.
    deletes = (f"DELETE FROM {table.name}" for table in metadata.sorted_tables)
    services.administer("START TRANSACTION", *deletes, "COMMIT", url=url)
    return url


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[Store]:
    """An empty store in which two transactions can be open at once: on SQLite there is one writer at a time."""
    made = make_store(emptied(request.getfixturevalue(f"{request.param}_store_url")))
    yield made
    made.close()


@pytest.fixture
def postgresql(postgresql_store_url: str) -> Iterator[Store]:
    """An empty PostgreSQL store."""
    made = make_store(emptied(postgresql_store_url))
    yield made
    made.close()


@pytest.fixture
def store(store_address: str) -> Iterator[Store]:
    """A migrated, empty store whose time is held."""
    made = make_store(store_address)
    yield made
    made.close()


# -- what producers do ---------------------------------------------------------------------------------------


def job(id: str | None = None, worker: str = WORKER, **options: Any) -> OneTimeWorkRequest:
    """A request; its id is short, so that a failure can be read."""
    return OneTimeWorkRequest(worker, options.pop("input", None), id=id or f"job-{next(_numbers):05}", **options)


def every(
    id: str | None = None, worker: str = WORKER, *, seconds: float | None = 3600, **options: Any
) -> PeriodicWorkRequest:
    """A periodic request; without an interval when there is a schedule."""
    interval = None if "schedule" in options else seconds
    number = id or f"every-{next(_numbers):05}"
    return PeriodicWorkRequest(worker, options.pop("input", None), id=number, repeat_interval=interval, **options)


def _jobs(requests: Iterable[WorkRequest | str]) -> tuple[WorkRequest, ...]:
    return tuple(job(each) if isinstance(each, str) else each for each in requests)


def step(*requests: WorkRequest | str, after: Sequence[str] = ()) -> Step:
    """Works without a name that follow those in `after`."""
    return Step(_jobs(requests), tuple(after))


def enqueue(store: Store, *steps: Step, connection: Connection | None = None) -> Insertion:
    """Enqueue steps as they stand."""
    return store.enqueue(steps, lambda each: each.queue or QUEUE, connection)


def put(store: Store, *requests: WorkRequest | str, connection: Connection | None = None) -> Insertion:
    """Enqueue works that depend on nothing."""
    return enqueue(store, step(*requests), connection=connection)


def put_chain(store: Store, *layers: str | Sequence[str]) -> Insertion:
    """Enqueue layers of works, each of which depends on the whole layer before."""
    steps: list[Step] = []
    before: tuple[str, ...] = ()
    for layer in layers:
        ids = (layer,) if isinstance(layer, str) else tuple(layer)
        steps.append(step(*ids, after=before))
        before = ids
    return enqueue(store, *steps)


def put_named(
    store: Store,
    name: str,
    policy: ExistingWorkPolicy | ExistingPeriodicWorkPolicy,
    *requests: WorkRequest | str,
    connection: Connection | None = None,
) -> Insertion:
    """Enqueue works under a unique name."""
    return enqueue(store, Step(_jobs(requests), name=name, policy=policy), connection=connection)


# -- what nodes do -------------------------------------------------------------------------------------------


def register(store: Store, node: str = "node", *, lease: int = 15 * SECOND, now: int | None = None) -> str:
    """Announce a node with a lease of `lease` microseconds."""
    at = store.clock.now() if now is None else now
    store.register(NodeRow(node, "w@host", "host", 1, 1, at, at + lease, "{}"))
    return node


def take(
    store: Store,
    limit: int = 10,
    *,
    node: str = "node",
    workers: Iterable[str] = (WORKER,),
    queues: Iterable[str] = (QUEUE,),
    token: int | None = None,
) -> list[Claim]:
    """Claim up to `limit` works."""
    lanes = sorted(lanes_of(queues, workers))
    return store.claim(lanes, node, next(_numbers) if token is None else token, limit)


def take_one(store: Store, work_id: str, node: str = "node") -> Claim:
    """Claim this very work."""
    (claim,) = store.claim_one(work_id, node, next(_numbers))
    return claim


def start(store: Store, *claims: Claim) -> set[str]:
    """Write RUNNING for runs that begin now."""
    return store.write_starts([(claim, store.clock.now()) for claim in claims])


def verdicts(store: Store, claims: Iterable[Claim], ending: Ending, **outcome: Any) -> list[Verdict]:
    """What the store is asked to write when the runs of `claims` have ended in this way."""
    now, monotonic = store.clock.now(), store.clock.monotonic()
    if ending is not Ending.GIVEN_BACK:
        outcome.setdefault("started_at", monotonic)
    return [judge(claim, Outcome(ending, **outcome), now, monotonic, store.terms) for claim in claims]


def end(store: Store, *claims: Claim, ending: Ending = Ending.SUCCEEDED, **outcome: Any) -> Settled:
    """Settle the ends of runs; all must be accepted by a test that says nothing else."""
    return store.settle(verdicts(store, claims, ending, **outcome))


def succeed(store: Store, *ids: str, output: str | None = None) -> None:
    """Claim and finish these works, one after the other."""
    for each in ids:
        assert end(store, take_one(store, each), output=output).accepted == {each}


def fail(store: Store, *ids: str) -> None:
    """Claim these works and let their runs fail."""
    for each in ids:
        assert end(store, take_one(store, each), ending=Ending.FAILED).accepted == {each}


def move(store: Store, microseconds: int) -> None:
    """Let time pass, and do what becomes due."""
    assert isinstance(store.clock, HeldClock)
    store.clock.move(microseconds)
    store.promote()


# -- what readers see ----------------------------------------------------------------------------------------


def states(store: Store) -> dict[str, str]:
    """The state of every work by its id."""
    return {info.id: info.state.name for info in store.work_infos(WorkQuery())}


def info(store: Store, work_id: str) -> WorkInfo:
    """A work as users see it."""
    (found,) = store.work_infos(WorkQuery(ids=(work_id,)))
    return found


def state(store: Store, work_id: str) -> State:
    """A work's state."""
    return info(store, work_id).state


def row(store: Store, work_id: str) -> Any:
    """A work as it is stored."""
    with store.database.plain() as connection:
        return connection.execute(select(work).where(work.c.id == work_id)).one()


def rows_of(store: Store, table: str) -> int:
    """How many rows a table has."""
    with store.database.plain() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM workmanager_{table}")).scalar_one())


def sql(store: Store, statement: str, **values: Any) -> None:
    """Write past the store, as only a test may."""
    with store.database.transaction() as connection:
        connection.execute(text(statement), values)


# -- two at once ---------------------------------------------------------------------------------------------


def together(*calls: Callable[..., Any]) -> list[Any]:
    """Run `calls` in threads that start at the same moment; returns what each returned or raised."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[..., Any]) -> Any:
        barrier.wait(timeout=30)
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - the loser of a race
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


@contextmanager
def meanwhile(call: Callable[[], Any]) -> Iterator[Future[Any]]:
    """Run `call` in a thread beside the block; its result is there afterwards."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(call)


def wait_until(condition: Callable[[], Any], *, seconds: float = 30) -> None:
    """Return when `condition` is true; fail when it doesn't become so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not come"
        time.sleep(0.005)


_BLOCKED = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
_BLOCKED_ON_MARIADB = (
    "SELECT count(*) FROM information_schema.innodb_trx JOIN information_schema.processlist"
    " ON id = trx_mysql_thread_id WHERE db = database() AND trx_state = 'LOCK WAIT'"
)

_WAITS_ON_MARIADB = (
    "SELECT variable_value FROM information_schema.global_status WHERE variable_name = 'innodb_row_lock_current_waits'"
)


def is_blocked(store: Store) -> bool:
    """Whether some transaction of this (server's) database waits for another one."""
    if not store.database.is_mysql:
        return bool(_number(store, _BLOCKED))
    # InnoDB shows an old list to who asks for it again within 0.1 s, so it is asked only when somebody waits at all.
    if not _number(store, _WAITS_ON_MARIADB):
        return False
    time.sleep(0.11)
    return bool(_number(store, _BLOCKED_ON_MARIADB))


def _number(store: Store, question: str) -> int:
    with store.database.plain() as connection:
        return int(connection.execute(text(question)).scalar_one())


def users_engine(store: Store) -> Engine:
    """An engine of somebody's own over the store's database."""
    return services.users_engine(store.database.url)


@contextmanager
def holding(store: Store, *ids: str) -> Iterator[Connection]:
    """An open transaction of somebody's that holds the rows of these works."""
    users = users_engine(store)
    try:
        with users.connect() as connection, connection.begin():
            for each in ids:
                connection.execute(select(work.c.id).where(work.c.id == each).with_for_update())
            yield connection
    finally:
        users.dispose()
