"""What an engine survives: a real worker, and every way to hurt it."""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from celery_workmanager import engine_prefork
from tests.celery.pool_worker import PoolWorker, wait_until
from tests.services import RedisServer

Start = Callable[..., PoolWorker]


pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a worker, on the memory broker unless told otherwise; it is killed after the test."""
    workers: list[PoolWorker] = []

    def started(*options: str, **environment: str) -> PoolWorker:
        worker = PoolWorker(tmp_path, *(options or ("-c", "2")), **environment)
        workers.append(worker)
        return worker.__enter__()

    yield started
    for worker in workers:
        worker.__exit__()


def ids(count: int, prefix: str = "w") -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


def all_done(worker: PoolWorker, count: int, deadline: float = 30.0) -> None:
    wait_until(lambda: len(worker.outcomes("SUCCEEDED")) >= count, deadline, f"{count} works succeed")


def each_ran_once(worker: PoolWorker, count: int) -> None:
    ran = worker.ran()
    assert len(ran) == count
    assert set(ran.values()) == {1}


#: test_other_pools.py has what these don't: solo, and the rest of gevent.
POOLS = [("-c", "2"), ("-P", "threads", "-c", "2")]
GEVENT = ("-P", "gevent", "-c", "2")


class TestBroker:
    @pytest.mark.parametrize("pool", [*POOLS, GEVENT], ids=["prefork", "threads", "gevent"])
    def test_works_run_although_the_broker_was_never_there(self, start: Start, tmp_path: Path, pool: Any) -> None:
        broker = RedisServer(tmp_path)
        worker = start(*pool, broker=broker.url)
        worker.claim("mark", *ids(20))
        all_done(worker, 20)
        each_ran_once(worker, 20)
        worker.send(signal.SIGTERM)
        assert worker.ends() == 0

    @pytest.mark.parametrize("pool", [*POOLS, GEVENT], ids=["prefork", "threads", "gevent"])
    @pytest.mark.parametrize("batch", ["1", "5"])
    def test_works_go_on_when_the_broker_is_killed(
        self, start: Start, free_redis: RedisServer, pool: Any, batch: str
    ) -> None:
        worker = start(*pool, broker=free_redis.url, batch=batch, depth="4")
        wait_until(lambda: "ready." in worker.log())
        worker.claim("nap", *ids(150), input={"seconds": 0.01})
        wait_until(lambda: len(worker.outcomes()) > 20)
        free_redis.stop()
        all_done(worker, 150)
        each_ran_once(worker, 150)
        free_redis.start()
        wait_until(lambda: worker.log().count("Connected to redis") > 1 or "ready." in worker.log())
        worker.claim("mark", *ids(10, "after"))
        all_done(worker, 160)

    def test_works_go_on_when_the_broker_is_killed_while_nothing_runs(
        self, start: Start, free_redis: RedisServer
    ) -> None:
        worker = start(broker=free_redis.url)
        wait_until(lambda: "ready." in worker.log())
        free_redis.stop()
        wait_until(lambda: "Connection to broker lost" in worker.log() or "connection to broker lost" in worker.log())
        worker.claim("mark", *ids(10))
        all_done(worker, 10)
        each_ran_once(worker, 10)

    def test_ordinary_tasks_run_beside_works_and_are_not_slowed_down(
        self, start: Start, free_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        worker = start(broker=free_redis.url)
        monkeypatch.setenv("POOL_APP_FOLDER", str(worker.folder))
        from celery import Celery

        producer = Celery(broker=free_redis.url)
        worker.claim("nap", *ids(100), input={"seconds": 0.01})
        for number in range(100):
            producer.send_task("tests.celery.pool_app.ordinary", (number,))
        began = time.monotonic()
        wait_until(lambda: len(worker.lines("ordinary")) == 100)
        assert time.monotonic() - began < 10, "eight deliveries every two seconds would take 25"
        all_done(worker, 100)

    def test_filesystem_broker(self, start: Start, tmp_path: Path) -> None:
        for folder in ("messages", "control"):
            (tmp_path / folder).mkdir()
        transport = {
            "data_folder_in": str(tmp_path / "messages"),
            "data_folder_out": str(tmp_path / "messages"),
            "control_folder": str(tmp_path / "control"),
        }
        worker = start(broker="filesystem://", conf=json.dumps({"broker_transport_options": transport}))
        worker.claim("mark", *ids(20))
        all_done(worker, 20)
        worker.send(signal.SIGTERM)
        assert worker.ends() == 0


class TestCycles:
    """Python's search for cycles: what is there when the pool forks is left out, and only the worker itself waits."""

    def test_runs_are_searched_as_ever_and_the_worker_less_often(self, start: Start) -> None:
        worker = start()
        (ready,) = worker.events("ready")
        usual = list(gc.get_threshold())
        assert ready["threshold"] == [engine_prefork._YOUNG, *usual[1:]]
        worker.claim("look_for_cycles", "first")
        first = json.loads(worker.outcome("first")["output"])
        for pid in worker.children():
            os.kill(pid, signal.SIGKILL)
        worker.claim("look_for_cycles", "second")
        second = json.loads(worker.outcome("second")["output"])
        assert second["pid"] not in ready["children"], "forked when the worker had begun to wait"
        for run in (first, second):
            assert run["threshold"] == usual
            assert run["frozen"] > 50_000, "Celery and SQLAlchemy alone"

    @pytest.mark.parametrize("first", [0, 50_000], ids=["off", "rarer still"])
    def test_what_somebody_has_set_is_left(self, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gc, "get_threshold", lambda: (first, 5, 5))
        monkeypatch.setattr(gc, "set_threshold", lambda *_: pytest.fail("expected nothing to be set"))
        engine_prefork._gather_more()


class TestKills:
    @pytest.mark.slow
    def test_killing_idle_children_loses_nothing(self, start: Start) -> None:
        worker = start()
        for round_ in range(5):
            wait_until(lambda: len(worker.children()) == 2)
            os.kill(worker.children()[round_ % 2], signal.SIGKILL)
            worker.claim("mark", *ids(10, f"r{round_}-"))
            all_done(worker, 10 * (round_ + 1), deadline=10)
        each_ran_once(worker, 50)
        assert not worker.outcomes("LOST")

    @pytest.mark.parametrize("batch", ["1", "10"])
    def test_only_the_work_that_ran_counts_as_lost(self, start: Start, batch: str) -> None:
        worker = start(batch=batch)
        names = ids(20)
        worker.claim("nap", names[0], input={"seconds": 60})
        worker.claim("mark", *names[1:])
        pid = worker.runs_now("w0")
        os.kill(pid, signal.SIGKILL)
        all_done(worker, 19, deadline=10)
        assert worker.outcome("w0")["ending"] == "LOST"
        assert [outcome["id"] for outcome in worker.outcomes("LOST")] == ["w0"]
        assert all(worker.ran()[name] == 1 for name in names)

    def test_members_that_ended_before_the_kill_keep_their_outcome(self, start: Start) -> None:
        worker = start("-c", "1", batch="10")
        worker.claim("mark", *ids(5))
        worker.claim("suicide", "killer")
        worker.claim("mark", *ids(4, "late"))
        assert worker.outcome("killer")["ending"] == "LOST"
        all_done(worker, 9, deadline=10)
        assert all(count == 1 for count in worker.ran().values())

    @pytest.mark.slow
    @pytest.mark.parametrize("batch", ["1", "8"])
    def test_a_storm_of_kills(self, start: Start, batch: str) -> None:
        """Whatever is killed when: every work ends once, and what isn't lost ran to its end."""
        worker = start("-c", "4", batch=batch, depth="3")
        count = 1500
        worker.claim("nap", *ids(count), input={"seconds": 0.002})
        chance = random.Random(7)
        kills = 0

        def at_the_end() -> bool:
            return len({o["id"] for o in worker.outcomes() if o["ending"] != "GIVEN_BACK"}) == count

        while not at_the_end() and kills < 30:
            pids = worker.children()
            if pids:
                with suppress(ProcessLookupError):  # the previous kill's, seen a moment too early
                    os.kill(chance.choice(pids), signal.SIGKILL)
                kills += 1
            seen = len(worker.outcomes())
            # The last kill may have come when all was over.
            wait_until(
                lambda seen=seen: len(worker.outcomes()) > seen or at_the_end(),  # type: ignore[misc]
                15,
                "goes on after a kill",
            )
        wait_until(at_the_end, 60)
        lost = {outcome["id"] for outcome in worker.outcomes("LOST")}
        done = {outcome["id"] for outcome in worker.outcomes("SUCCEEDED")}
        assert not lost & done
        assert len(worker.outcomes("LOST")) + len(worker.outcomes("SUCCEEDED")) == count
        assert len(lost) <= kills
        assert all(worker.ran("napped")[name] == 1 for name in done)
        assert max(worker.ran().values()) == 1, "what started is not run again by the engine"

    def test_children_die_with_their_parent(self, start: Start) -> None:
        worker = start()
        worker.claim("nap", "w0", input={"seconds": 60})
        worker.runs_now("w0")
        wait_until(lambda: len(worker.children()) == 2)
        # One that the engine's thread forked is among them.
        idle = next(pid for pid in worker.children() if pid != worker.runs_now("w0"))
        os.kill(idle, signal.SIGKILL)
        pids = wait_until(lambda: len(worker.children()) == 2 and worker.children())
        worker.send(signal.SIGKILL)
        worker.ends()
        wait_until(lambda: not any(_alive(pid) for pid in pids), 5)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


class TestShutdown:
    @pytest.mark.parametrize("pool", POOLS, ids=["prefork", "threads"])
    @pytest.mark.parametrize("batch", ["1", "10"])
    def test_warm_shutdown_gives_back_what_has_not_started(self, start: Start, pool: Any, batch: str) -> None:
        worker = start(*pool, batch=batch, depth="10")
        worker.claim("nap", *ids(40), input={"seconds": 0.7})
        wait_until(lambda: len(worker.ran()) >= 2)
        worker.send(signal.SIGTERM)
        assert worker.ends() == 0
        ended = worker.outcomes()
        assert {outcome["ending"] for outcome in ended} == {"SUCCEEDED", "GIVEN_BACK"}
        done = {outcome["id"] for outcome in ended if outcome["ending"] == "SUCCEEDED"}
        assert done == set(worker.ran()) == set(worker.ran("napped"))
        last_words = [line["event"] for line in worker.lines("outcomes")][-1]
        assert last_words == "closed"

    def test_a_child_that_answers_late_does_not_hold_a_warm_shutdown_up(self, start: Start) -> None:
        """All that it ran is known before it says so; billiard lets it wait half a minute to be heard."""
        worker = start("-c", "1", batch="2", late="0.4")
        worker.claim("nap", "w0", "w1", input={"seconds": 0.5})
        worker.runs_now("w0")
        worker.send(signal.SIGTERM)
        assert worker.ends(15) == 0
        assert [worker.outcome(each)["ending"] for each in ("w0", "w1")] == ["SUCCEEDED", "GIVEN_BACK"]

    def test_a_child_killed_during_a_warm_shutdown_does_not_hang_it(self, start: Start) -> None:
        worker = start()
        worker.claim("nap", "w0", input={"seconds": 60})
        pid = worker.runs_now("w0")
        worker.send(signal.SIGTERM)
        wait_until(lambda: "Warm shutdown" in worker.log())
        os.kill(pid, signal.SIGKILL)
        assert worker.ends() == 0
        assert worker.outcome("w0")["ending"] == "LOST"

    def test_replaced_children_finish_their_run_in_a_warm_shutdown(self, start: Start) -> None:
        """The kernel kills children of a thread that ends; theirs must not."""
        worker = start("-c", "2", "--max-tasks-per-child", "1")
        worker.claim("mark", *ids(4))
        all_done(worker, 4)
        worker.claim("nap", "slow", input={"seconds": 2})
        worker.runs_now("slow")
        worker.send(signal.SIGTERM)
        assert worker.ends() == 0
        assert worker.outcome("slow")["ending"] == "SUCCEEDED"

    @pytest.mark.parametrize("pool", POOLS, ids=["prefork", "threads"])
    def test_cold_shutdown_ends_what_runs_as_stopped(self, start: Start, pool: Any) -> None:
        worker = start(*pool, depth="3")
        task = "wait_for_stop" if "threads" in pool else "stubborn"
        worker.claim(task, *ids(6))
        worker.runs_now("w0")
        worker.runs_now("w1")
        worker.send(signal.SIGQUIT)
        worker.ends()
        ended = {outcome["id"]: outcome for outcome in worker.outcomes()}
        assert {ended[name]["reason"] for name in ("w0", "w1")} == {"SYSTEM_PROCESSING"}
        assert {ended[name]["ending"] for name in ("w0", "w1")} == {"STOPPED"}
        assert {outcome["ending"] for name, outcome in ended.items() if name not in ("w0", "w1")} == {"GIVEN_BACK"}
        assert len(ended) == 6

    def test_soft_shutdown_lets_runs_end_by_themselves_first(self, start: Start) -> None:
        worker = start(conf=json.dumps({"worker_soft_shutdown_timeout": 3}))
        worker.claim("wait_for_stop", "polite")
        worker.claim("stubborn", "rude")
        worker.runs_now("polite")
        worker.runs_now("rude")
        worker.send(signal.SIGQUIT)
        worker.ends()
        assert worker.lines("stopped")[0]["reason"] == "SYSTEM_PROCESSING"
        polite, rude = worker.outcome("polite"), worker.outcome("rude")
        assert polite["ending"] == rude["ending"] == "STOPPED"
        assert rude["at"] - polite["at"] > 2


class TestLimits:
    def test_soft_and_hard_limits_of_a_work(self, start: Start) -> None:
        worker = start()
        worker.claim("stubborn", "hard", time_limit=0.5)
        worker.claim("stubborn", "soft", soft_time_limit=0.3)
        hard, soft = worker.outcome("hard"), worker.outcome("soft")
        assert hard["ending"] == soft["ending"] == "FAILED"
        assert json.loads(hard["error"])["exc_type"] == "TimeLimitExceeded"
        assert json.loads(soft["error"])["exc_type"] == "SoftTimeLimitExceeded"
        assert soft["runtime"] < 0.5
        assert hard["runtime"] < 1
        worker.claim("mark", *ids(10))
        all_done(worker, 10)

    def test_limits_of_the_worker_count_for_each_member_alone(self, start: Start) -> None:
        worker = start("-c", "1", "--time-limit", "1", batch="5")
        worker.claim("nap", *ids(5), input={"seconds": 0.4})
        all_done(worker, 5)

    def test_max_tasks_per_child_counts_works(self, start: Start) -> None:
        worker = start("-c", "2", "--max-tasks-per-child", "2", batch="10")
        worker.claim("mark", *ids(20))
        all_done(worker, 20)
        by_child = [line["pid"] for line in worker.lines("ran")]
        assert max(by_child.count(pid) for pid in by_child) == 2
        each_ran_once(worker, 20)

    def test_autoscale_grows_the_pool(self, start: Start) -> None:
        worker = start("--autoscale", "4,1", depth="4")
        worker.claim("nap", *ids(16), input={"seconds": 0.5})
        all_done(worker, 16, deadline=15)
        assert len({line["pid"] for line in worker.lines("ran")}) == 4


class TestStop:
    @pytest.mark.parametrize("pool", POOLS, ids=["prefork", "threads"])
    def test_a_run_sees_that_it_is_stopped_and_ends_as_stopped(self, start: Start, pool: Any) -> None:
        worker = start(*pool)
        worker.claim("wait_for_stop", "w0")
        worker.runs_now("w0")
        worker.stop_work("w0")
        outcome = worker.outcome("w0")
        assert (outcome["ending"], outcome["reason"]) == ("STOPPED", "CANCELLED_BY_APP")
        assert worker.lines("stopped")[0]["reason"] == "CANCELLED_BY_APP"

    def test_a_run_that_does_not_listen_is_terminated_after_the_grace_period(self, start: Start) -> None:
        worker = start()
        worker.claim("stubborn", "deaf")
        worker.claim("nap", "bystander", input={"seconds": 2})
        pid = worker.runs_now("deaf")
        worker.runs_now("bystander")
        worker.stop_work("deaf", grace=0.3)
        outcome = worker.outcome("deaf")
        assert (outcome["ending"], outcome["reason"]) == ("STOPPED", "CANCELLED_BY_APP")
        assert outcome["runtime"] > 0.3
        assert not _alive(pid)
        assert worker.outcome("bystander")["ending"] == "SUCCEEDED"

    @pytest.mark.parametrize("pool", ["prefork", "gevent"])
    def test_a_run_that_ends_in_time_is_not_followed_by_a_signal(self, start: Start, pool: str) -> None:
        """The next work of that process (or in that place) must not die for it."""
        worker = start("-P", pool, "-c", "1")
        worker.claim("wait_for_stop", "w0")
        pid = worker.runs_now("w0")
        worker.claim("nap", "next", input={"seconds": 1})
        worker.stop_work("w0", grace=0.3)
        assert worker.outcome("next")["ending"] == "SUCCEEDED"
        assert worker.runs_now("next") == pid

    def test_what_waits_in_a_batch_behind_a_long_run_is_given_back(self, start: Start) -> None:
        worker = start("-c", "2", batch="10")
        worker.claim("nap", "long", input={"seconds": 2})
        worker.claim("mark", *ids(9))
        all_done(worker, 9, deadline=1.5)
        assert worker.outcome("long")["ending"] == "SUCCEEDED"
        each_ran_once(worker, 10)

    def test_a_work_that_waits_is_given_back_when_it_is_stopped(self, start: Start) -> None:
        worker = start("-c", "1", depth="2")
        worker.claim("nap", "w0", input={"seconds": 1})
        worker.claim("mark", "w1")
        worker.runs_now("w0")
        wait_until(lambda: "pool_app.mark[w1] received" in worker.log())
        worker.send(signal.SIGSTOP)
        worker.stop_work("w1")
        worker.send(signal.SIGCONT)
        assert worker.outcome("w1")["ending"] == "GIVEN_BACK"

    def test_progress_reaches_the_node(self, start: Start) -> None:
        worker = start()
        worker.claim("report", "w0")
        worker.outcome("w0")
        seen = wait_until(lambda: [e["progress"]["step"] for e in worker.events("progress")])
        assert seen == sorted(set(seen))
        assert seen[-1] == 2


class TestRemoteControl:
    @pytest.mark.parametrize("pool", [POOLS[0], GEVENT], ids=["prefork", "gevent"])
    def test_inspect_and_revoke(self, start: Start, free_redis: RedisServer, pool: Any) -> None:
        from celery import Celery

        worker = start(*pool, broker=free_redis.url, depth="2")
        wait_until(lambda: "ready." in worker.log())
        control = Celery(broker=free_redis.url).control
        worker.claim("stubborn", *ids(4))
        worker.runs_now("w0")
        worker.runs_now("w1")
        inspect = control.inspect(timeout=3)
        (active,) = wait_until(inspect.active).values()
        assert {task["id"] for task in active} == {"w0", "w1"}
        (reserved,) = wait_until(inspect.reserved).values()
        assert {task["id"] for task in reserved} == {"w2", "w3"}
        control.revoke("w0", terminate=True)
        outcome = worker.outcome("w0")
        assert (outcome["ending"], outcome["reason"]) == ("STOPPED", "USER")
        assert [event["id"] for event in worker.events("revoked")] == ["w0"]
        assert worker.runs_now("w2")

    def test_events(self, start: Start, free_redis: RedisServer) -> None:
        from celery import Celery

        worker = start("-c", "1", "-E", broker=free_redis.url)
        wait_until(lambda: "ready." in worker.log())
        app = Celery(broker=free_redis.url)
        seen: list[tuple[str, str]] = []
        with app.connection_for_read() as connection:
            receiver = app.events.Receiver(
                connection, handlers={"*": lambda event: seen.append((event["type"], event.get("uuid", "")))}
            )
            wanted = [(kind, "w0") for kind in ("task-received", "task-started", "task-succeeded")]
            for _ in receiver.itercapture(timeout=15):
                # The first heartbeat says that the receiver is subscribed.
                if len(seen) == 1:
                    worker.claim("nap", "w0")
                if set(wanted) <= set(seen):
                    break
        assert [event for event in seen if event[1] == "w0"] == wanted
