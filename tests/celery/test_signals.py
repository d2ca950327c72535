"""Signals of works from real workers, whose app connects receivers that write what they hear into a file."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_workmanager import OneTimeWorkRequest, State
from tests.celery import events_app
from tests.celery.events_worker import EventsWorker
from tests.celery.pool_worker import wait_until

pytestmark = [pytest.mark.redis, pytest.mark.timeout(120)]


class Hearer(EventsWorker):
    """A worker whose receivers write what they hear."""

    def __init__(self, folder: Path, broker: str, gate: Path | None = None) -> None:
        super().__init__(folder, broker)
        self.path = folder / "signals"
        self.environment[events_app.SIGNALS_PATH] = str(self.path)
        if gate is not None:
            self.environment[events_app.SIGNALS_GATE] = str(gate)

    def heard(self, name: str) -> list[dict[str, Any]]:
        """What its receivers of a signal were told."""
        text = self.path.read_text() if self.path.exists() else ""
        lines = [json.loads(line) for line in text.splitlines()]
        return [line for line in lines if line["signal"] == name]

    def hears(self, name: str, work_id: str) -> dict[str, Any]:
        """Wait until a signal has told of a work."""
        found = wait_until(
            lambda: [line for line in self.heard(name) if line["id"] == work_id], 30, f"{name} tells of {work_id}"
        )
        return dict(found[0])

    def finished(self, work_id: str) -> bool:
        info = self.manager.get_work_info_by_id(work_id)
        return info is not None and info.state.is_finished


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Hearer]:
    with Hearer(tmp_path_factory.mktemp("signals"), redis_url) as started:
        yield started


def test_a_work_is_unblocked_in_the_worker(worker: Hearer) -> None:
    first, second = (OneTimeWorkRequest("work.add", {"x": 1, "y": 2}) for _ in range(2))
    worker.manager.begin_with(first).then(second).enqueue()
    assert worker.hears("work_unblocked", second.id)["pid"] == worker.process.pid
    wait_until(lambda: worker.finished(second.id))
    # They were enqueued here, where nobody listens.
    assert not {first.id, second.id} & {line["id"] for line in worker.heard("work_enqueued")}


def test_a_work_that_another_enqueues_is_told_in_the_process_that_does_it(worker: Hearer) -> None:
    outer = worker.manager.enqueue(OneTimeWorkRequest("work.enqueue")).id
    wait_until(lambda: worker.finished(outer))
    info = worker.manager.get_work_info_by_id(outer)
    assert info.state is State.SUCCEEDED, info
    output = info.output_data
    assert worker.hears("work_enqueued", str(output["id"]))["pid"] == output["pid"] != worker.process.pid


def test_a_work_whose_process_dies_is_healed(worker: Hearer) -> None:
    dying = OneTimeWorkRequest("work.die_once", {"mark": str(worker.folder / "died")})
    worker.manager.enqueue(dying)
    heard = worker.hears("work_healed", dying.id)
    assert (heard["pid"], heard["reason"]) == (worker.process.pid, "UNKNOWN")
    wait_until(lambda: worker.finished(dying.id))
    assert worker.manager.get_work_info_by_id(dying.id).state is State.SUCCEEDED
    # Of such a run Celery is told that there will be another.
    assert worker.last(dying.id, "retried")["exception"] == "WorkerLostError"


def test_a_work_that_expires_is_told_by_the_worker_that_notices(worker: Hearer) -> None:
    late = OneTimeWorkRequest("work.add", {"x": 1, "y": 2}, expires=0.1, initial_delay=60)
    worker.manager.enqueue(late)
    assert worker.hears("work_expired", late.id)["pid"] == worker.process.pid


def test_a_receiver_that_hangs_holds_up_no_work_and_no_shutdown(tmp_path: Path, redis_url: str) -> None:
    gate = tmp_path / "gate"
    with Hearer(tmp_path, redis_url, gate) as worker:

        def run_two() -> str:
            first, second = (OneTimeWorkRequest("work.add", {"x": 1, "y": 2}) for _ in range(2))
            worker.manager.begin_with(first).then(second).enqueue()
            wait_until(lambda: worker.finished(second.id))
            return second.id

        unblocked = [run_two(), run_two()]
        assert worker.heard("work_unblocked") == []
        gate.touch()
        for each in unblocked:
            worker.hears("work_unblocked", each)
        gate.unlink()
        run_two()
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(30) == 0
        assert len(worker.heard("work_unblocked")) == 2


def test_what_a_cold_shutdown_stops_at_last_is_told_before_the_worker_is_gone(worker: Hearer) -> None:
    """The last test: it ends the worker."""
    running = worker.call("work.patient")
    worker.wait_for(running, "started")
    worker.process.send_signal(signal.SIGQUIT)
    worker.process.wait(30)
    (heard,) = worker.heard("work_stopped")
    assert (heard["id"], heard["pid"], heard["reason"]) == (running, worker.process.pid, "SYSTEM_PROCESSING")
    assert worker.manager.get_work_info_by_id(running).state is State.ENQUEUED
    assert worker.last(running, "retried")["exception"] == "Stopped(SYSTEM_PROCESSING)"
