"""Task events of works: what a real receiver hears of them, beside what it hears of the same plain tasks."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from celery_workmanager import OneTimeWorkRequest
from celery_workmanager.messenger import Messenger
from tests.celery.events_worker import EventsWorker
from tests.celery.pool_worker import ROOT, wait_until
from tests.services import RedisServer

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]

BROKERS = [
    pytest.param("redis", marks=pytest.mark.redis),
    pytest.param("rabbitmq", marks=pytest.mark.rabbitmq),
    "filesystem",
]


def url_of(broker: str, request: pytest.FixtureRequest) -> str:
    return "filesystem://" if broker == "filesystem" else str(request.getfixturevalue(f"{broker}_url"))


@pytest.fixture(scope="module", params=BROKERS)
def worker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventsWorker]:
    """A worker that all tests of a broker share; producers tell of what they send, too."""
    folder = tmp_path_factory.mktemp(request.param)
    with EventsWorker(folder, url_of(request.param, request), "-c", "4", task_send_sent_event=True) as started:
        yield started


# -- side by side ------------------------------------------------------------------------------------------------


@dataclass
class Scene:
    """A call of a task that exists twice, and what is to be told of it (`of plain`: told of the plain one)."""

    task: str
    kinds: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    #: What is done once the task has started.
    then: Callable[[EventsWorker, str], None] = lambda _worker, _id: None


def _terminate(worker: EventsWorker, task_id: str) -> None:
    worker.wait_for(task_id, "started")
    worker.app.control.revoke(task_id, terminate=True)


SCENES = {
    "success": Scene("add", ("sent", "received", "started", "succeeded"), {"kwargs": {"x": 2, "y": 3}}),
    "long arguments": Scene(
        "add", ("sent", "received", "started", "succeeded"), {"kwargs": {"x": "a" * 3000, "y": "b"}}
    ),
    "arguments beyond JSON": Scene(
        "add",
        ("sent", "received", "started", "succeeded"),
        {"kwargs": {"x": [datetime(2026, 1, 2, tzinfo=UTC)], "y": [{"deep": [[[[]]]]}]}},
    ),
    "failure": Scene("fail", ("sent", "received", "started", "failed")),
    "a retry": Scene("retry", ("received", "started", "retried", "received", "started", "succeeded")),
    "a retry in a moment": Scene(
        "retry",
        ("received", "started", "retried", "received", "started", "succeeded"),
        {"kwargs": {"countdown": 0.2}},
    ),
    "retries used up": Scene("insist", ("received", "started", "retried", "received", "started", "failed")),
    "a countdown": Scene(
        "add", ("sent", "received", "started", "succeeded"), {"kwargs": {"x": 2, "y": 3}, "countdown": 0.3}
    ),
    "an expiry": Scene(
        "add", ("sent", "received", "started", "succeeded"), {"kwargs": {"x": 2, "y": 3}, "expires": 600}
    ),
    "expired": Scene(
        "add", ("sent", "revoked"), {"kwargs": {"x": 2, "y": 3}, "expires": datetime(2026, 1, 2, tzinfo=UTC)}
    ),
    "terminated": Scene(
        "nap", ("sent", "received", "started", "revoked"), {"kwargs": {"seconds": 60}}, then=_terminate
    ),
}
#: Of each event by itself: its moment, and where in the order of all events it stands.
_OWN = {"uuid", "timestamp", "local_received", "clock"}


def _comparable(event: dict[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in event.items() if key not in _OWN}
    if "name" in found:
        found["name"] = found["name"].partition(".")[2]
    if "root_id" in found:
        found["root_id"] = found["root_id"] == event["uuid"]
    if found.get("parent_id") == event["uuid"]:
        # Celery's retry is a message that the task itself has sent; a work's is the same work.
        found["parent_id"] = None
    for moment in ("eta", "expires"):
        if found.get(moment) is not None:
            found[moment] = datetime.fromisoformat(found[moment]).utcoffset()
    if "runtime" in found:
        found["runtime"] = isinstance(found["runtime"], float)
    if "traceback" in found:
        found["traceback"] = found["traceback"].rstrip().rpartition("\n")[2]
    return found


def _by_kind(events: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    # Celery tells of a retry after it has sent it, so it may be received first: the kinds are in order, each by itself.
    found = defaultdict(list)
    for event in events:
        found[event["type"]].append(_comparable(event))
    return dict(found)


def _of_worker(events: list[dict[str, Any]]) -> list[str]:
    """What a worker told, in its own order: files in a folder have none finer than milliseconds."""
    own = [each for each in events if each["type"] != "task-sent"]
    return [each["type"].removeprefix("task-") for each in sorted(own, key=lambda each: int(each["clock"]))]


@pytest.mark.parametrize("name", SCENES)
def test_a_work_tells_what_the_same_plain_task_tells(worker: EventsWorker, name: str) -> None:
    scene = SCENES[name]
    told = {}
    for kind in ("plain", "work"):
        task_id = worker.call(f"{kind}.{scene.task}", **scene.options)
        scene.then(worker, task_id)
        told[kind] = worker.wait_for(task_id, *scene.kinds)
    assert _of_worker(told["work"]) == [each for each in scene.kinds if each != "sent"]
    plain, work = _by_kind(told["plain"]), _by_kind(told["work"])
    if "sent" not in scene.kinds:
        for each in (plain, work):  # a retry of Celery's is sent anew, a work's isn't; nobody has waited for it either
            each.pop("task-sent", None)
    assert work == plain


def test_clocks_and_moments_are_in_order(worker: EventsWorker) -> None:
    events = worker.wait_for(worker.call("work.add", kwargs={"x": 1, "y": 2}), "received", "started", "succeeded")
    own = sorted((each for each in events if each["type"] != "task-sent"), key=lambda each: int(each["clock"]))
    assert [each["type"] for each in own] == ["task-received", "task-started", "task-succeeded"]
    assert [each["timestamp"] for each in own] == sorted(each["timestamp"] for each in own)
    assert own[0]["timestamp"] == pytest.approx(time.time(), abs=60)
    assert {each["pid"] for each in own} == {worker.process.pid}


def test_a_hard_time_limit_is_told_once(worker: EventsWorker) -> None:
    """Celery 5.7 tells it twice."""
    task_id = worker.call("work.nap", kwargs={"seconds": 60}, time_limit=0.3)
    failed = worker.last(task_id, "failed")
    assert failed["exception"].startswith("TimeLimitExceeded(")
    assert "TimeLimitExceeded" in failed["traceback"]
    # Whatever was on its way is there when a later task has been told of.
    worker.wait_for(worker.call("work.add", kwargs={"x": 1, "y": 2}), "succeeded")
    assert worker.kinds(task_id).count("failed") == 1


def test_a_result_that_is_a_failure_is_told_as_one(worker: EventsWorker) -> None:
    failed = worker.last(worker.call("work.refuse"), "failed")
    assert (failed["exception"], failed["traceback"]) == ("WorkFailed('the worker returned a failure')", "")


def test_attempts_that_are_used_up_are_told_as_a_failure(worker: EventsWorker) -> None:
    task_id = worker.call("work.retry", max_retries=0)
    failed = worker.last(task_id, "failed")
    assert failed["exception"].startswith("AttemptsExhausted(")
    assert "retried" not in worker.kinds(task_id)


def test_a_work_that_is_cancelled_while_it_runs_is_told_as_revoked(worker: EventsWorker) -> None:
    task_id = worker.call("work.patient")
    worker.wait_for(task_id, "started")
    worker.manager.cancel_work_by_id(task_id)
    revoked = worker.last(task_id, "revoked")
    assert (revoked["terminated"], revoked["signum"], revoked["expired"]) == (True, None, False)
    assert _of_worker(worker.of(task_id)) == ["received", "started", "revoked"]


def test_a_work_that_is_cancelled_before_it_runs_is_told_as_revoked_by_who_does_it(worker: EventsWorker) -> None:
    task_id = worker.call("work.add", kwargs={"x": 1, "y": 2}, countdown=600)
    worker.manager.cancel_work_by_id(task_id)
    revoked = worker.last(task_id, "revoked")
    assert (revoked["terminated"], revoked["signum"], revoked["expired"]) == (False, None, False)
    worker.wait_for(task_id, "sent")
    assert sorted(worker.kinds(task_id)) == ["revoked", "sent"]


def test_the_works_of_a_chain_are_received_in_order(worker: EventsWorker) -> None:
    first, second = (OneTimeWorkRequest("work.add", {"x": number, "y": 1}) for number in (1, 2))
    worker.manager.begin_with(first).then(second).enqueue()
    moments = {each["type"]: each["timestamp"] for each in worker.wait_for(second.id, "sent", "received", "succeeded")}
    before = {each["type"]: each["timestamp"] for each in worker.wait_for(first.id, "sent", "succeeded")}
    assert before["task-succeeded"] < moments["task-received"]


def test_a_task_that_sends_no_events_sends_none(worker: EventsWorker) -> None:
    silent = worker.call("work.silent")
    wait_until(lambda: worker.manager.get_work_info_by_id(silent).state.is_finished)
    worker.wait_for(worker.call("work.add", kwargs={"x": 1, "y": 2}), "succeeded")
    assert worker.of(silent) == []


def test_what_a_task_tells_itself_is_told(worker: EventsWorker) -> None:
    told = worker.wait_for(worker.call("work.tell", kwargs={"said": "half way"}), "received", "said", "succeeded")
    assert [each["said"] for each in told if each["type"] == "task-said"] == ["half way"]


# -- Celery's own commands ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("worker", [pytest.param("redis", marks=pytest.mark.redis)], indirect=True)
def test_celery_events_dumps_works(worker: EventsWorker) -> None:
    path = worker.folder / "dump"
    with path.open("wb") as dump:
        watcher = worker.run("events", "--dump", stdout=dump, stderr=dump)
    try:
        wait_until(lambda: "HEARTBEAT" in path.read_text().upper(), 60, "the command listens")
        task_id = worker.call("work.add", kwargs={"x": 2, "y": 3})
        wait_until(lambda: f"task succeeded: work.add({task_id})" in path.read_text(), 30, "it shows the end")
    finally:
        watcher.kill()
        watcher.wait()
    assert f"task received: work.add({task_id})" in path.read_text()
    assert "result=5" in path.read_text()


# -- the end of a worker -----------------------------------------------------------------------------------------


def test_what_ends_at_last_while_the_worker_shuts_down_is_told(worker: EventsWorker) -> None:
    """The last test of each broker: it ends the worker."""
    naps = [worker.call("work.nap", kwargs={"seconds": 0.7}) for _ in range(4)]
    for each in naps:
        worker.wait_for(each, "started")
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(30) == 0
    for each in naps:
        assert worker.last(each, "succeeded")["result"] == "0.7"


@pytest.mark.redis
def test_a_worker_that_shuts_down_waits_a_moment_for_events_on_their_way(tmp_path: Path, redis_url: str) -> None:
    """Each takes a while to reach the broker, longer than all the rest of the shutdown."""
    with EventsWorker(tmp_path, redis_url, "-P", "threads", "-c", "8", events_slow=0.15) as worker:
        naps = [worker.call("work.nap", kwargs={"seconds": 3.0}) for _ in range(8)]
        for each in naps:
            worker.wait_for(each, "started")
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(30) == 0
        for each in naps:
            worker.wait_for(each, "succeeded")


def test_a_messenger_can_be_waited_for_but_not_for_ever() -> None:
    told: list[int] = []
    gate = threading.Event()
    messenger = Messenger("test", most=3)
    assert messenger.flush(0)  # nothing was ever posted
    assert messenger.post(gate.wait)
    wait_until(messenger._calls.empty)
    assert [messenger.post(partial(told.append, number)) for number in range(4)] == [True] * 3 + [False]
    assert not messenger.flush(0.05)
    gate.set()
    assert messenger.flush(10)
    assert told == [0, 1, 2]


# -- a broker that is away ---------------------------------------------------------------------------------------


def test_an_enqueue_never_waits_for_a_broker_that_is_away(tmp_path: Path) -> None:
    """Sent events are switched on, and nobody is there to take them; neither the enqueue nor the exit waits."""
    away = RedisServer(tmp_path)  # never started
    store = f"sqlite:///{tmp_path / 'store.sqlite3'}"
    script = (
        "import sys, time; from tests.celery import events_app\n"
        "app = events_app.build(sys.argv[1], sys.argv[2], task_send_sent_event=True)\n"
        "app.workmanager.store.open(); begun = time.monotonic()\n"
        "ids = [app.tasks['work.add'].delay(x=1, y=2).id for _ in range(20)]\n"
        "print(time.monotonic() - begun, len(app.workmanager.get_work_infos_by_tag('work.add')))\n"
    )
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, away.url, store],
        capture_output=True, text=True, check=True, timeout=60, cwd=ROOT,
    )  # fmt: skip
    seconds, works = done.stdout.split()
    assert (int(works), float(seconds) < 5) == (20, True)
    assert time.monotonic() - begun < 30
