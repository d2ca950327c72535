"""A store behind a pooler that lends out connections by the transaction (PgBouncer): nothing is left in a session."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url, text

from celery_workmanager import ExistingWorkPolicy, OneTimeWorkRequest, PeriodicWorkRequest, State, WorkManager, schema
from celery_workmanager.database import Database
from celery_workmanager.migrations import HEAD
from celery_workmanager.policies import ExistingPeriodicWorkPolicy
from tests import services
from tests.conftest import need
from tests.stores import make_store, put, put_chain, states, succeed
from tests.story import story_app
from tests.story.pooler import pooled
from tests.story.workers import StoryWorker, wait_until

pytestmark = [pytest.mark.postgresql]

_SESSION = text(
    "SELECT pg_backend_pid(), current_setting('synchronous_commit'), current_setting('enable_seqscan'),"
    " current_setting('idle_in_transaction_session_timeout')"
)


@pytest.fixture
def server_url(postgresql_url: str) -> str:
    need("pgbouncer")
    services.empty_database(postgresql_url)
    return postgresql_url


@pytest.fixture
def one_session(server_url: str) -> Iterator[str]:
    """A store behind a pooler with one session for everybody (to migrate takes two)."""
    with closing(Database(server_url)) as database:
        schema.migrate(database)
    with pooled(server_url, size=1) as url:
        yield url


def test_a_pooler_is_found_out_whether_it_refuses_settings_or_drops_them(server_url: str):
    with pooled(server_url) as refusing, pooled(server_url, more="ignore_startup_parameters = options") as dropping:
        found = [_is_shared(url) for url in (server_url, refusing, dropping)]
    assert found == [False, True, True]


def _is_shared(url: str, **options: Any) -> bool | None:
    with closing(Database(url, **options)) as database:
        with database.plain() as connection:
            connection.execute(text("SELECT 1"))
        return database.route.is_shared


def test_it_may_be_told_too(server_url: str):
    assert _is_shared(server_url, is_pooled=True)
    manager = WorkManager.get_instance(story_app.build(server_url, transaction_pooling=True))
    assert manager.store.database.is_pooled


def test_commits_of_claims_never_make_those_of_others_asynchronous(one_session: str):
    """All in one session of the server: each transaction has its own settings, and takes them with it."""
    with closing(Database(one_session)) as database:
        seen: list[tuple[Any, ...]] = []
        for relaxed in (True, False, True, False):
            with database.transaction(relaxed=relaxed) as connection:
                seen.append(tuple(connection.execute(_SESSION).one()))
            database.run_relaxed(lambda connection: connection.execute(_SESSION).one())
        assert [each[1:] for each in seen] == [("off", "off", "10s"), ("on", "off", "10s")] * 2
        assert len({each[0] for each in seen}) == 1
        assert _left_behind(one_session) == (seen[0][0], "on", "on", "0", 0, 0)


def _left_behind(url: str) -> tuple[Any, ...]:
    """What another program finds in the session that it is lent."""
    reach = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(reach, autocommit=True, prepare_threshold=None) as other:
        session = other.execute(str(_SESSION)).fetchone() or ()
        prepared = other.execute("SELECT count(*)::int FROM pg_prepared_statements").fetchone() or ()
        heard = other.execute("SELECT count(*)::int FROM pg_listening_channels()").fetchone() or ()
    return (*session, *prepared, *heard)


def test_two_programs_in_one_session_do_not_meet_each_other_s_statements(one_session: str):
    """Each statement often enough to be prepared, if anything were."""
    one, two = make_store(one_session), make_store(one_session)
    for number in range(12):
        put(one, f"one-{number}")
        put(two, f"two-{number}")
        succeed(one, f"one-{number}")
        assert states(two)[f"one-{number}"] == "SUCCEEDED"
    put_chain(two, "first", "then")
    succeed(one, "first", "then")
    assert set(states(one).values()) == {"SUCCEEDED", "ENQUEUED"}
    one.close()
    two.close()


@pytest.mark.slow
def test_a_worker_and_its_callers_do_everything_through_a_pooler(server_url: str, tmp_path: Path):
    """Chains, names, periods, limits, pauses and cancels, with fewer sessions than connections."""
    with pooled(server_url, size=3) as url:
        manager = WorkManager.get_instance(story_app.build(url))
        assert schema.migrate(manager.store.database)[1] == HEAD
        worker = StoryWorker(tmp_path, url)
        worker.start()
        try:
            _do_everything(manager)
        finally:
            worker.terminate()
            worker.end()
        assert manager.store.nodes() == []
        assert manager.store.database.route.is_shared
        manager.store.close()
    for wrong in ("Traceback", "prepared statement", "is away", "out of order"):
        assert wrong not in worker.log


def _do_everything(manager: WorkManager) -> None:
    def request(nap: float = 0.0, **options: Any) -> OneTimeWorkRequest:
        return OneTimeWorkRequest("story.step", {"nap": nap}, **options)

    def finished(*requests: OneTimeWorkRequest) -> list[State]:
        ids = [each.id for each in requests]
        wait_until(lambda: all(info.state.is_finished for info in manager.infos_of(ids)), what="works end")
        return [info.state for info in manager.infos_of(ids)]

    many = [request() for _ in range(100)]
    manager.enqueue(many)
    chain = [request(), request(), request()]
    manager.begin_with(chain[0]).then(chain[1]).then(chain[2]).enqueue()
    named = [request() for _ in range(3)]
    for each in named:
        manager.enqueue_unique_work("one", ExistingWorkPolicy.APPEND, each)
    assert set(finished(*many, *chain, *named)) == {State.SUCCEEDED}

    long = request(nap=600)
    manager.enqueue(long)
    wait_until(lambda: manager.infos_of([long.id])[0].state is State.RUNNING, what="a long work runs")
    manager.cancel_work_by_id(long.id)
    assert finished(long) == [State.CANCELLED]

    manager.pause(queue="celery")
    held = request()
    manager.enqueue(held)
    assert manager.infos_of([held.id])[0].paused
    manager.resume(queue="celery")
    assert finished(held) == [State.SUCCEEDED]

    period = PeriodicWorkRequest("story.step", {"nap": 0.0}, repeat_interval=1)
    manager.enqueue_unique_periodic_work("tick", ExistingPeriodicWorkPolicy.KEEP, period)
    wait_until(lambda: len(manager.get_runs(period.id)) >= 2, what="two periods")
    manager.cancel_unique_work("tick")
