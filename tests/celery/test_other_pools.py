"""Works in each of Celery's pools: real workers over a real store, and what each pool can and cannot do."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from celery.concurrency import ALIASES, solo
from sqlalchemy import text

from celery_workmanager import State, StopReason, pools
from celery_workmanager.green import is_green
from tests import services
from tests.celery.house import House, most_at_once
from tests.celery.pool_worker import ROOT, wait_until

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]

POOLS = {
    "prefork": ("-P", "prefork", "-c", "2"),
    "threads": ("-P", "threads", "-c", "2"),
    "solo": ("-P", "solo"),
    "gevent": ("-P", "gevent", "-c", "10"),
}
PLACES = {"prefork": 2, "threads": 2, "solo": 1, "gevent": 10}
#: Pools that can end a run that doesn't listen.
MIGHTY = ("prefork", "gevent")
WEAK = ("threads", "solo")


@pytest.fixture(scope="module", params=POOLS)
def pool(request: pytest.FixtureRequest) -> str:
    """Each pool in turn."""
    return str(request.param)


@pytest.fixture(scope="module")
def house(pool: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One worker of each pool, for all tests that don't hurt it."""
    folder = tmp_path_factory.mktemp(pool)
    made = House(folder, f"sqlite:///{folder / 'store.sqlite3'}", *POOLS[pool])
    made.start()
    yield made
    made.close()


@pytest.fixture
def own_house(pool: str, tmp_path: Path) -> Iterator[House]:
    """A store of the test's own, whose worker isn't started yet."""
    made = House(tmp_path, f"sqlite:///{tmp_path / 'store.sqlite3'}", *POOLS[pool])
    yield made
    made.close()


def drained(house: House, count: int) -> None:
    """Let the worker run so many works: each runs once and succeeds."""
    ids = house.put("mark", count)
    infos = house.finished(ids, 60)
    assert {(info.state, info.run_attempt_count) for info in infos} == {(State.SUCCEEDED, 1)}
    ran = Counter(line["id"] for line in house.lines("marks"))
    assert {ran[each] for each in ids} == {1}


class TestRuns:
    def test_works_are_drained_and_none_runs_twice(self, house: House) -> None:
        drained(house, 2000)

    def test_the_node_tells_which_pool_it_has(self, house: House, pool: str) -> None:
        (node,) = wait_until(house.manager.store.nodes)
        assert json.loads(node.facts)["pool"] == pool

    def test_runs_that_take_turns_keep_apart(self, house: House, pool: str) -> None:
        """Each sees its own work and its own request after it let others run; coroutines too."""
        before = len(house.lines("naps"))
        ids = [*house.put("nap", 10, seconds=0.05), *house.put("doze", 10, seconds=0.05)]
        outputs = [info.output_data.to_dict() for info in house.finished(ids)]
        assert outputs == [{"same": True}] * 20
        assert 1 <= most_at_once(spans(house.lines("naps")[before:])) <= PLACES[pool]

    @pytest.mark.parametrize("worker", ["listen", "linger"])
    def test_a_cancelled_run_hears_of_it(self, house: House, worker: str) -> None:
        ids = house.put(worker)
        house.running(ids)
        house.manager.cancel_work_by_id(ids[0])
        last = house.noted("listeners", lambda line: line["id"] == ids[0] and line["event"] != "start")
        assert last["event"] == "CANCELLED_BY_APP"
        assert house.states(ids) == {State.CANCELLED: 1}

    @pytest.mark.parametrize("pool", MIGHTY, indirect=True)
    def test_a_cancelled_run_that_does_not_listen_is_ended_after_the_grace(self, house: House, pool: str) -> None:
        ids = house.put("deaf", PLACES[pool])
        house.running(ids)
        for each in ids:
            house.manager.cancel_work_by_id(each)
        (after,) = house.finished(house.put("nap", seconds=0))
        assert after.state is State.SUCCEEDED
        first = house.infos(ids)[0].started_at
        assert first is not None
        assert after.started_at is not None
        assert after.started_at - first > timedelta(seconds=house.manager.settings.stop_grace)

    @pytest.mark.parametrize("pool", MIGHTY, indirect=True)
    @pytest.mark.parametrize("worker", ["deaf", "linger"])
    def test_time_limits(self, house: House, worker: str) -> None:
        hard = house.put(worker, options={"time_limit": 0.4})
        soft = house.put(worker, options={"soft_time_limit": 0.2, "time_limit": 20})
        infos = house.finished([*hard, *soft], 15)
        assert [info.state for info in infos] == [State.FAILED] * 2
        assert [info.error.exc_type for info in infos] == ["TimeLimitExceeded", "SoftTimeLimitExceeded"]
        if worker == "deaf":
            assert house.noted("deaf", lambda line: line["event"] == "soft")["id"] == soft[0]
        drained(house, 20)

    @pytest.mark.parametrize("pool", WEAK, indirect=True)
    def test_threads_know_no_time_limits(self, house: House) -> None:
        """As everywhere in Celery: nobody can end a thread."""
        ids = house.put("nap", seconds=0.4, options={"time_limit": 0.1, "soft_time_limit": 0.1})
        assert house.finished(ids)[0].state is State.SUCCEEDED


def spans(lines: list[dict[str, Any]], key: str = "id") -> list[tuple[float, float]]:
    """When each run began and ended."""
    starts = {line[key]: line["at"] for line in lines if line["event"] == "start"}
    return [(starts[line[key]], line["at"]) for line in lines if line["event"] == "end"]


class TestShutdown:
    @pytest.mark.slow
    def test_a_life(self, own_house: House, pool: str) -> None:
        """Warm shutdown, kill, cold shutdown: nothing is lost, and only what was killed runs again."""
        house, places = own_house, PLACES[pool]
        ids = house.put("nap", places * 3, seconds=1.0)
        house.start()
        house.running(ids, places)
        house.send(signal.SIGTERM)
        assert house.ends() == 0
        assert house.states(ids) == {State.SUCCEEDED: places, State.ENQUEUED: places * 2}
        assert len(house.lines("naps", "start")) == len(house.lines("naps", "end")) == places

        house.start()
        house.running(ids, places)
        house.send(signal.SIGKILL)
        house.ends()
        begun = len(house.lines("naps", "start"))
        house.start()
        infos = house.finished(ids)
        assert {info.state for info in infos} == {State.SUCCEEDED}
        again = sum(info.interruptions for info in infos)
        assert again == begun - places == places
        assert len(house.lines("naps", "start")) == places * 4

        ids = house.put("listen", places * 2)
        house.running(ids, places)
        house.send(signal.SIGQUIT)
        house.ends()
        infos = house.infos(ids)
        assert {(info.state, info.run_attempt_count) for info in infos} == {(State.ENQUEUED, 0)}
        reasons = Counter(info.stop_reason for info in infos)
        assert reasons == {StopReason.SYSTEM_PROCESSING: places, StopReason.NOT_STOPPED: places}

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("pool", "warm_first"), [("threads", True), ("gevent", True), ("gevent", False)], indirect=["pool"]
    )
    def test_a_cold_shutdown_ends_what_does_not_listen(self, own_house: House, pool: str, *, warm_first: bool) -> None:
        house, places = own_house, PLACES[pool]
        house.start()
        ids = [*house.put("deaf", places), *house.put("nap", seconds=0)]
        house.running(ids, places)
        if warm_first:
            house.send(signal.SIGTERM)
            wait_until(lambda: "Warm shutdown" in house.log())
        house.send(signal.SIGQUIT)
        house.ends()
        assert house.states(ids) == {State.ENQUEUED: places + 1}
        reasons = Counter(info.stop_reason for info in house.infos(ids))
        assert reasons == {StopReason.SYSTEM_PROCESSING: places, StopReason.NOT_STOPPED: 1}
        assert "Unrecoverable error" not in house.log()


@pytest.mark.redis
class TestOrdinaryTasks:
    """They share the pool with works."""

    @pytest.mark.parametrize("pool", ["solo", "gevent"], indirect=True)
    def test_together_they_are_no_more_than_the_pool_has_places(
        self, pool: str, tmp_path: Path, free_redis: services.RedisServer
    ) -> None:
        options = ("-P", "gevent", "-c", "3") if pool == "gevent" else POOLS[pool]
        house = House(tmp_path, f"sqlite:///{tmp_path / 'store.sqlite3'}", *options, broker=free_redis.url)
        try:
            house.start()
            ids = house.put("nap", 30, seconds=0.02)
            for number in range(30):
                house.app.send_task("pools.ordinary", (number, 0.02))
            house.finished(ids)
            wait_until(lambda: len(house.lines("ordinary", "end")) == 30, 30, "the ordinary tasks end")
            both = spans(house.lines("naps")) + spans(house.lines("ordinary"), "number")
            assert len(both) == 60
            assert most_at_once(both) == (3 if pool == "gevent" else 1)
        finally:
            house.close()

    def test_one_that_waits_behind_a_work_goes_back_at_a_shutdown(
        self, tmp_path: Path, free_redis: services.RedisServer
    ) -> None:
        house = House(tmp_path, f"sqlite:///{tmp_path / 'store.sqlite3'}", "-P", "solo", broker=free_redis.url)
        try:
            house.start()
            ids = house.put("nap", seconds=2)
            house.running(ids)
            house.app.send_task("pools.ordinary", (1,))
            wait_until(lambda: "Task pools.ordinary" in house.log(), 30, "it is received")
            house.send(signal.SIGTERM)
            assert house.ends() == 0
            assert house.states(ids) == {State.SUCCEEDED: 1}
            assert not house.lines("ordinary")
            house.start()
            wait_until(lambda: house.lines("ordinary", "end"), 30, "the task runs")
        finally:
            house.close()


#: Seconds without a turn that say that the whole process stood still: the machine alone may hold one up for less.
STANDSTILL = 1.5


class TestGreenlets:
    @pytest.mark.slow
    @pytest.mark.redis
    def test_neither_the_store_nor_the_broker_stops_them(
        self, tmp_path: Path, store_url: str, free_redis: services.RedisServer
    ) -> None:
        """Locks of the store are waited for, and the broker is tried again, by the greenlet that wants it."""
        house = House(tmp_path, store_url, *POOLS["gevent"], broker=free_redis.url)
        try:
            house.start()
            drained(house, 200)
            watch = house.put("listen")
            house.running(watch)
            later = house.put("mark", options={"initial_delay": 1})
            hold(house, 3 * STANDSTILL)
            house.finished(later)
            free_redis.stop()
            began = time.monotonic()
            # Celery's pauses between its tries last 2, 4, 6 … seconds.
            while time.monotonic() - began < 7:
                drained(house, 20)
            free_redis.start()
            drained(house, 200)
            house.manager.cancel_work_by_id(watch[0])
            last = house.noted("listeners", lambda line: line["event"] == "CANCELLED_BY_APP")
            assert last["gap"] < STANDSTILL
            house.send(signal.SIGTERM)
            assert house.ends() == 0
        finally:
            house.close()


def hold(house: House, seconds: float) -> None:
    """Let every other writer of the store wait."""
    with house.manager.store.database.transaction() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("LOCK TABLE workmanager_work IN ACCESS EXCLUSIVE MODE"))
        time.sleep(seconds)


class TestChangingProcesses:
    """``--autoscale`` and children that are replaced: batches must not make them forget anybody."""

    @pytest.mark.parametrize("limited", ["tasks", "memory"])
    def test_children_are_replaced_in_time(self, limited: str, tmp_path: Path) -> None:
        most = 5 if limited == "tasks" else 150_000
        options = (*POOLS["prefork"], f"--max-{limited}-per-child", str(most))
        house = House(tmp_path, f"sqlite:///{tmp_path / 'store.sqlite3'}", *options)
        try:
            house.start()
            ids = house.put("mark", 60) if limited == "tasks" else house.put("hog", 400, megabytes=1)
            infos = house.finished(ids, 60)
            facts = {(info.state, info.run_attempt_count, info.interruptions) for info in infos}
            assert facts == {(State.SUCCEEDED, 1, 0)}
            marks = house.lines("marks")
            assert Counter(line["id"] for line in marks) == Counter(ids)
            per_child = Counter(line["pid"] for line in marks)
            assert len(per_child) > 3
            if limited == "tasks":
                assert max(per_child.values()) == most
            else:
                # Celery looks after each job, so a job may be no more than one work.
                beyond = Counter(line["pid"] for line in marks if line["peak"] > most)
                assert set(beyond.values()) == {1}
        finally:
            house.close()

    @pytest.mark.slow
    @pytest.mark.parametrize("pool", MIGHTY, indirect=True)
    def test_autoscale_grows_and_shrinks_the_pool(self, pool: str, tmp_path: Path) -> None:
        house = House(tmp_path, f"sqlite:///{tmp_path / 'store.sqlite3'}", "-P", pool, "--autoscale", "4,1")
        try:
            house.start(AUTOSCALE_KEEPALIVE="1")
            for _ in range(2):
                before = len(house.lines("naps"))
                infos = house.finished(house.put("nap", 32, seconds=0.3))
                assert {(info.state, info.run_attempt_count) for info in infos} == {(State.SUCCEEDED, 1)}
                assert most_at_once(spans(house.lines("naps")[before:])) == 4
                if pool == "gevent":
                    return  # Celery before 5.7 counts greenlets that run, and so never lets an idle pool shrink
                wait_until(lambda: house.children() == 1, 20, "the pool shrinks")
        finally:
            house.close()


class TestRefusals:
    def test_a_worker_with_another_pool_says_why_it_runs_no_works(self, tmp_path: Path) -> None:
        house = House(tmp_path, f"sqlite:///{tmp_path / 'store.sqlite3'}", "-P", "custom")
        try:
            house.start(CELERY_CUSTOM_WORKER_POOL="tests.celery.test_other_pools:OwnPool")
            expected = "expected pool prefork, threads, solo or gevent to run works, got: tests.celery.test_other_pools"
            assert f"This worker runs no works: {expected}:OwnPool" in house.log()
            house.send(signal.SIGTERM)
            assert house.ends() == 0
        finally:
            house.close()

    def test_eventlet(self) -> None:
        eventlet = type("TaskPool", (), {"__module__": "celery.concurrency.eventlet"})
        refused = pools.refusal(eventlet, None)
        assert refused == "expected pool prefork, threads, solo or gevent to run works, got: eventlet"

    def test_gevent_without_its_monkey_patch(self) -> None:
        assert not is_green()
        assert "expected gevent's monkey patch before everything else" in str(pools.refusal("gevent", None))

    def test_what_is_taken(self) -> None:
        aliases = ("prefork", "processes", "threads", "solo")
        assert [pools.kind_of(each) for each in aliases] == ["prefork", "prefork", "threads", "solo"]
        assert [pools.refusal(each, None) for each in aliases] == [None] * 4
        assert pools.kind_of("gevent") == "gevent"

    def test_who_does_not_use_gevent_does_not_import_it(self, tmp_path: Path) -> None:
        script = (
            "import sys; from tests.celery import pools_app; pools_app.build('sqlite://'); import celery.bin.worker"
        )
        check = (
            "from celery_workmanager import bootstep, pools; pools.refusal('prefork', None); print(sorted(sys.modules))"
        )
        found = subprocess.run(
            [sys.executable, "-c", f"{script}; {check}"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert "celery_workmanager.engine_gevent" in found.stdout
        assert "'gevent'" not in found.stdout


class OwnPool(solo.TaskPool):
    """A pool of somebody's own."""


def test_celery_and_its_tools_know_the_prefork_pool_as_their_own() -> None:
    assert f"{pools.WorkPool.__module__}:{pools.WorkPool.__qualname__}" == ALIASES["prefork"]
    assert pools.kind_of(pools.WorkPool) == pools.PREFORK
