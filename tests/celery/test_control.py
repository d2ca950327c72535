"""Celery's remote control on works: a real worker on each broker, asked and told from other processes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from celery.exceptions import TaskRevokedError
from celery.result import GroupResult
from celery.utils import uuid

from celery_workmanager import OneTimeWorkRequest
from tests.celery.control_site import Site, conf_of
from tests.celery.pool_worker import ROOT, wait_until
from tests.conftest import need

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]

HOUR = 3600
#: How long a stopped run may take: a terminated one must not be seen to need it.
GRACE = 60.0
_SERVICE = {"quorum": "rabbitmq", "filesystem": None}


def _broker(name: str) -> object:
    service = _SERVICE.get(name, name)
    return pytest.param(name, marks=[getattr(pytest.mark, service)] if service else [])


@pytest.fixture(scope="module", params=[_broker(name) for name in ("filesystem", "redis", "rabbitmq", "quorum")])
def running_site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A worker on each broker in turn, for all tests of this file."""
    service = _SERVICE.get(request.param, request.param)
    if service:
        need(service)
    folder = tmp_path_factory.mktemp(request.param)
    site = Site(folder, {**conf_of(request.param, folder), "workmanager_stop_grace": GRACE})
    site.start_and_wait()
    yield site
    site.close()


@pytest.fixture
def site(running_site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """That worker, idle before and after each test."""
    monkeypatch.setenv("CONTROL_FOLDER", str(running_site.folder))
    yield running_site
    running_site.end_all()


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid)


# -- asking -----------------------------------------------------------------------------------------------------------


def test_inspect_shows_works_as_tasks(site: Site) -> None:
    first, second, third = site.call("stubborn", count=3)
    pids = site.wait_for_running(first, second)
    active = {task["id"]: task for task in site.ask("active")}
    assert {task["worker_pid"] for task in active.values()} == set(pids)
    assert active.keys() == {first.id, second.id}
    assert {(task["name"], task["hostname"]) for task in active.values()} == {("control.stubborn", "one@here")}
    # What can't begin yet waits in the store, where every node can take it.
    assert site.ask("reserved") == site.ask("scheduled") == []
    assert site.state(third) == "ENQUEUED"
    found = site.ask("query_task", [first.id, third.id])
    assert {each: state for each, (state, _) in found.items()} == {first.id: "active"}
    assert {"control.mark", "control.limited [rate_limit=5/s]"} <= set(site.ask("registered"))
    stats = site.ask("stats")
    assert sorted(stats["pool"]["processes"]) == sorted(site.children())
    assert stats["total"]["control.stubborn"] >= 2
    assert [queue["name"] for queue in site.ask("active_queues")] == [site.conf["task_default_queue"]]
    assert "celery" in site.ask("report")["ok"]
    assert site.ask("ping") == {"ok": "pong"}


# -- revoking ---------------------------------------------------------------------------------------------------------


def test_a_revoked_work_is_cancelled_at_once_and_never_runs(site: Site) -> None:
    waiting, other = site.call("mark", count=2, countdown=HOUR)
    waiting.revoke()
    assert site.state(waiting) == "CANCELLED"
    assert site.state(other) == "ENQUEUED"
    with pytest.raises(TaskRevokedError):
        waiting.get(timeout=5)
    wait_until(lambda: waiting.id in site.ask("revoked"), what="the worker has heard it too")
    assert site.notes(waiting) == []


def test_many_are_revoked_at_once(site: Site) -> None:
    works = site.call("mark", count=3, countdown=HOUR)
    GroupResult(uuid(), works[:2], app=site.app).revoke()
    assert [site.state(each) for each in works] == ["CANCELLED", "CANCELLED", "ENQUEUED"]


def test_what_a_revoked_work_was_needed_for_is_cancelled_what_a_finished_one_unblocked_is_not(site: Site) -> None:
    before, after = (OneTimeWorkRequest("control.mark", initial_delay=HOUR) for _ in range(2))
    done, following = OneTimeWorkRequest("control.mark"), OneTimeWorkRequest("control.mark", initial_delay=HOUR)
    site.manager.begin_with(before).then(after).enqueue()
    site.manager.begin_with(done).then(following).enqueue()
    wait_until(lambda: site.manager.infos_of([done.id])[0].state.is_finished)
    site.app.control.revoke([before.id, done.id])
    states = [info.state.name for info in site.manager.infos_of([before.id, after.id, done.id, following.id])]
    assert states == ["CANCELLED", "CANCELLED", "SUCCEEDED", "ENQUEUED"]


def test_a_revoked_run_is_told_to_stop(site: Site) -> None:
    work = site.one("until_stopped")
    (pid,) = site.wait_for_running(work)
    work.revoke()
    assert (site.state(work), site.info(work).stop_reason.name) == ("CANCELLED", "CANCELLED_BY_APP")
    (told,) = wait_until(lambda: site.notes(work, "stopped"))
    assert (told["pid"], told["reason"]) == (pid, "CANCELLED_BY_APP")


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGKILL"])
def test_a_terminated_run_ends_at_once_and_no_other(site: Site, signal: str) -> None:
    doomed, bystander = site.call("stubborn", count=2)
    pid, other = site.wait_for_running(doomed, bystander)
    began = time.monotonic()
    doomed.revoke(terminate=True, signal=signal)
    assert (site.state(doomed), site.info(doomed).stop_reason.name) == ("CANCELLED", "USER")
    wait_until(lambda: is_gone(pid), GRACE)
    following = site.one("mark")
    site.wait_for("SUCCEEDED", following)
    assert time.monotonic() - began < GRACE / 2
    assert (site.state(bystander), is_gone(other)) == ("RUNNING", False)
    assert len(site.notes(doomed)) == 1


def test_a_stranger_revokes_works_everywhere(site: Site) -> None:
    """Flower, another language's client: who knows nothing of works tells the workers, and they cancel."""
    waiting, running = site.one("mark", countdown=HOUR), site.one("until_stopped")
    site.wait_for_running(running)
    site.stranger.control.revoke([waiting.id, running.id, "nobody's"])
    site.wait_for("CANCELLED", waiting, running)
    assert site.info(running).stop_reason.name == "CANCELLED_BY_APP"
    wait_until(lambda: site.notes(running, "stopped"))


def test_a_stranger_terminates_a_run(site: Site) -> None:
    work = site.one("stubborn")
    (pid,) = site.wait_for_running(work)
    site.stranger.control.terminate(work.id)
    site.wait_for("CANCELLED", work)
    assert site.info(work).stop_reason.name == "USER"
    wait_until(lambda: is_gone(pid), GRACE / 2)
    assert len(site.notes(work)) == 1


@pytest.mark.parametrize("who", ["app", "stranger"])
def test_works_are_revoked_by_the_tags_that_stamps_became(site: Site, who: str) -> None:
    tags = ("customer=7", "customer=8", "customer=9", "urgent")
    requests = [OneTimeWorkRequest("control.mark", tags={tag}, initial_delay=HOUR) for tag in tags]
    site.manager.enqueue(requests)
    getattr(site, who).control.revoke_by_stamped_headers({"customer": ["7", 8], "tag": "urgent"})

    def states() -> list[str]:
        return [info.state.name for info in site.manager.infos_of([each.id for each in requests])]

    wait_until(lambda: states() == ["CANCELLED", "CANCELLED", "ENQUEUED", "CANCELLED"], what=f"not: {states()}")


def test_an_ordinary_task_is_revoked_as_ever(site: Site) -> None:
    task = site.app.tasks["control.ordinary"]
    revoked = uuid()
    site.app.control.revoke(revoked)
    wait_until(lambda: revoked in site.ask("revoked"))
    task.apply_async(task_id=revoked)
    other = task.apply_async()
    wait_until(lambda: site.notes(other))
    assert not [line for line in site.notes() if line["id"] == revoked]


@pytest.mark.parametrize("running_site", ["filesystem"], indirect=True)
def test_the_command_line_revokes_works(site: Site) -> None:
    work = site.one("mark", countdown=HOUR)
    words = site.command("control", "--timeout", "1", "revoke", work.id)
    done = subprocess.run(words, env=site.environment(), cwd=ROOT, capture_output=True, text=True, check=False)
    assert site.state(work) == "CANCELLED", done.stderr


# -- telling ----------------------------------------------------------------------------------------------------------


def test_a_worker_claims_from_the_queues_that_it_consumes_from(site: Site) -> None:
    name = f"{site.conf['task_default_queue']}-more"

    def queues() -> set[str]:
        return {queue["name"] for queue in site.ask("active_queues")}

    site.app.control.add_consumer(name)
    wait_until(lambda: name in queues())
    site.wait_for("SUCCEEDED", site.one("mark", queue=name))
    site.app.control.cancel_consumer(name)
    wait_until(lambda: name not in queues())
    # A claim that began before has ended.
    site.wait_for("SUCCEEDED", site.one("mark"))
    waiting = site.one("mark", queue=name)
    site.wait_for("SUCCEEDED", *site.call("mark", count=3))
    assert (site.state(waiting), site.info(waiting).node) == ("ENQUEUED", None)
    site.app.control.add_consumer(name)
    site.wait_for("SUCCEEDED", waiting)
    site.app.control.cancel_consumer(name)
    wait_until(lambda: name not in queues())
    site.delete_queue(name)


def test_a_time_limit_holds_for_the_next_runs(site: Site) -> None:
    assert site.tell("time_limit", task_name="control.stubborn", hard=0.3) == {"ok": "time limits set successfully"}
    try:
        work = site.one("stubborn")
        site.wait_for("FAILED", work)
        assert site.info(work).error.exc_type == "TimeLimitExceeded"
    finally:
        site.tell("time_limit", task_name="control.stubborn")


def test_a_rate_limit_holds_from_now_on(site: Site) -> None:
    site.wait_for("SUCCEEDED", *site.call("mark", count=5))
    assert site.tell("rate_limit", task_name="control.mark", rate_limit="4/s") == {
        "ok": "new rate limit set successfully"
    }
    try:
        works = site.call("mark", count=5)
        site.wait_for("SUCCEEDED", *works)
        starts = sorted(site.notes(each)[0]["at"] for each in works)
        assert starts[-1] - starts[0] > 0.6
    finally:
        site.tell("rate_limit", task_name="control.mark", rate_limit="0")


def test_a_pool_grows_and_shrinks(site: Site) -> None:
    site.app.control.pool_grow(1)
    site.wait_for_running(*site.call("stubborn", count=3))
    site.end_all()
    site.app.control.pool_shrink(1)
    wait_until(lambda: len(site.children()) == 2)
    first, second, third = site.call("stubborn", count=3)
    site.wait_for_running(first, second)
    assert site.state(third) == "ENQUEUED"


def test_events_are_switched_on_and_off(site: Site) -> None:
    seen: list[tuple[str, str]] = []
    work = None
    with site.stranger.connection_for_read() as connection:
        receiver = site.stranger.events.Receiver(
            connection, handlers={"*": lambda event: seen.append((event["type"], event.get("uuid", "")))}
        )
        try:
            for _ in receiver.itercapture(timeout=30):
                # The first heartbeat says that the receiver is subscribed.
                if work is None:
                    site.app.control.heartbeat()
                    assert "task events" in site.tell("enable_events")["ok"]
                    work = site.one("mark")
                if ("task-succeeded", work.id) in seen:
                    break
        finally:
            assert site.tell("disable_events") == {"ok": "task events disabled"}
    assert "worker-heartbeat" in {kind for kind, _ in seen}


def test_autoscale_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTROL_FOLDER", str(tmp_path))
    site = Site(tmp_path, conf_of("filesystem", tmp_path), "--autoscale=3,1")
    try:
        site.start_and_wait()
        assert len(site.children()) == 1
        assert site.tell("autoscale", max=3, min=2) == {"ok": "autoscale now max=3 min=2"}
        site.wait_for_running(*site.call("stubborn", count=2))
        assert "error" in site.tell("pool_grow", n=1)
    finally:
        site.close()


def test_shutdown_lets_what_runs_end_and_leaves_the_rest_in_the_store(running_site: Site, monkeypatch) -> None:
    """The last test of each broker."""
    site = running_site
    monkeypatch.setenv("CONTROL_FOLDER", str(site.folder))
    first, second, third = site.call("until_stopped", count=3)
    site.wait_for_running(first, second)
    site.app.control.shutdown()
    wait_until(lambda: "Got shutdown from remote" in site.log)
    first.revoke()
    second.revoke()
    assert site.process.wait(100) == 0
    assert site.manager.store.nodes() == []
    assert site.notes(first, "stopped")
    assert site.notes(second, "stopped")
    assert (site.state(third), site.info(third).node) == ("ENQUEUED", None)
