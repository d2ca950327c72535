"""Flower, the real one: works stand in it as tasks do, and its buttons reach them."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import pytest

from celery_workmanager import OneTimeWorkRequest, State
from tests.celery.events_worker import EventsWorker
from tests.celery.pool_worker import wait_until
from tests.services import free_port

pytest.importorskip("flower")

pytestmark = [pytest.mark.redis, pytest.mark.timeout(180), pytest.mark.slow]


class Flower:
    """Flower's HTTP interface."""

    def __init__(self, port: int) -> None:
        self._root = f"http://127.0.0.1:{port}"

    def page(self, path: str, data: bytes | None = None) -> str:
        with urllib.request.urlopen(self._root + path, data, timeout=30) as answer:
            return str(answer.read().decode())

    def ask(self, path: str, data: Any = None) -> Any:
        return json.loads(self.page(path, None if data is None else json.dumps(data).encode()))

    @property
    def is_up(self) -> bool:
        try:
            return self.page("/healthcheck") == "OK"
        except URLError:
            return False

    def info(self, task_id: str, state: str | None = None) -> dict[str, Any]:
        """What it knows of a task, once it is in this state."""

        def look() -> dict[str, Any] | None:
            try:
                found: dict[str, Any] = self.ask(f"/api/task/info/{task_id}")
            except HTTPError as error:
                error.close()
                return None
            return found if state in (None, found["state"]) else None

        found: dict[str, Any] = wait_until(look, 30, f"Flower shows {task_id} as {state}")
        return found


@contextmanager
def flower_for(worker: EventsWorker) -> Iterator[Flower]:
    port = free_port()
    with (worker.folder / "flower.log").open("wb") as log:
        options = ["flower", "--address=127.0.0.1", f"--port={port}", "--inspect_timeout=5000"]
        process = worker.run(*options, stdout=log, stderr=log, environment={"FLOWER_UNAUTHENTICATED_API": "true"})
    try:
        flower = Flower(port)
        wait_until(lambda: flower.is_up, 60, "Flower answers")
        yield flower
    finally:
        process.terminate()
        try:
            process.wait(10)
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[EventsWorker]:
    folder: Path = tmp_path_factory.mktemp("flower")
    with EventsWorker(folder, redis_url, task_send_sent_event=True, result_backend="workmanager") as started:
        yield started


@pytest.fixture(scope="module")
def flower(worker: EventsWorker) -> Iterator[Flower]:
    with flower_for(worker) as started:
        name = worker.told("worker-heartbeat")[0]["hostname"]
        wait_until(lambda: started.ask("/api/workers?status=1").get(name), 60, "Flower knows the worker")
        yield started


def test_a_work_is_received_started_and_succeeds(worker: EventsWorker, flower: Flower) -> None:
    task_id = worker.call("work.add", kwargs={"x": 2, "y": 3})
    info = flower.info(task_id, "SUCCESS")
    assert (info["name"], info["args"], info["kwargs"]) == ("work.add", "()", "{'x': 2, 'y': 3}")
    assert (info["result"], info["root_id"], info["retries"]) == ("5", task_id, 0)
    assert info["worker"] == worker.told("worker-heartbeat")[0]["hostname"]
    assert info["received"] <= info["started"] <= info["succeeded"]
    assert info["runtime"] > 0
    listed = flower.ask("/api/tasks?taskname=work.add&state=SUCCESS")
    assert listed[task_id]["uuid"] == task_id


def test_a_work_that_fails_is_shown_with_its_exception(worker: EventsWorker, flower: Flower) -> None:
    info = flower.info(worker.call("work.fail"), "FAILURE")
    assert info["exception"] == "KeyError('nothing', 2)"
    assert info["traceback"].rstrip().endswith("KeyError: ('nothing', 2)")


def test_a_work_that_waits_is_shown_as_pending(worker: EventsWorker, flower: Flower) -> None:
    """Because of ``task_send_sent_event``; and cancelling it is shown too."""
    task_id = worker.call("work.add", kwargs={"x": 2, "y": 3}, countdown=600)
    info = flower.info(task_id, "PENDING")
    assert (info["kwargs"], info["routing_key"]) == ("{'x': 2, 'y': 3}", worker.app.conf.task_default_queue)
    assert info["eta"] is not None
    worker.manager.cancel_work_by_id(task_id)
    flower.info(task_id, "REVOKED")


def test_the_steps_of_a_chain_are_shown(worker: EventsWorker, flower: Flower) -> None:
    first, second = (OneTimeWorkRequest("work.nap", {"seconds": seconds}) for seconds in (0.5, 0))
    worker.manager.begin_with(first).then(second).enqueue()
    flower.info(second.id, "PENDING")
    flower.info(first.id, "SUCCESS")
    flower.info(second.id, "SUCCESS")


def test_the_button_that_terminates_reaches_a_running_work(worker: EventsWorker, flower: Flower) -> None:
    task_id = worker.call("work.nap", kwargs={"seconds": 120})
    flower.info(task_id, "STARTED")
    answer = flower.ask(f"/api/task/revoke/{task_id}?terminate=true", {})
    assert task_id in answer["message"]
    assert flower.info(task_id, "REVOKED")["revoked"] is not None
    wait_until(lambda: worker.manager.get_work_info_by_id(task_id).state is State.CANCELLED)


def test_a_work_is_enqueued_by_its_interface_and_its_result_read(flower: Flower) -> None:
    task_id = flower.ask("/api/task/async-apply/work.add", {"kwargs": {"x": 20, "y": 3}})["task-id"]
    flower.info(task_id, "SUCCESS")
    result = flower.ask(f"/api/task/result/{task_id}")
    assert (result["state"], result["result"]) == ("SUCCESS", 23)


def test_the_worker_shows_its_works(worker: EventsWorker, flower: Flower) -> None:
    name = worker.told("worker-heartbeat")[0]["hostname"]
    task_id = worker.call("work.patient")
    flower.info(task_id, "STARTED")

    def shown() -> dict[str, Any] | None:
        found: dict[str, Any] = flower.ask(f"/api/workers?refresh=1&workername={name}")[name]
        # What was just terminated is active until its process is gone.
        return found if [each["id"] for each in found["active"]] == [task_id] else None

    found: dict[str, Any] = wait_until(shown, 30, "the work is all that is active")
    assert {"work.add", "plain.add"} <= {each.split(" ")[0] for each in found["registered"]}
    assert found["stats"]["total"]["work.add"] >= 1
    assert [queue["name"] for queue in found["active_queues"]] == [worker.app.conf.task_default_queue]
    worker.manager.cancel_work_by_id(task_id)
    flower.info(task_id, "REVOKED")


def test_its_pages_show_works(worker: EventsWorker, flower: Flower) -> None:
    task_id = worker.call("work.add", kwargs={"x": 2, "y": 3})
    flower.info(task_id, "SUCCESS")
    name = worker.told("worker-heartbeat")[0]["hostname"]
    assert name in flower.page("/workers")
    assert "work.add" in flower.page(f"/worker/{name}")
    assert "Tasks" in flower.page("/tasks")
    page = flower.page(f"/task/{task_id}")
    assert all(each in page for each in ("work.add", task_id, "SUCCESS", name))
    metrics = flower.page("/metrics")
    assert f'flower_events_total{{task="work.add",type="task-succeeded",worker="{name}"}}' in metrics
