"""Long-running works on a real worker: seen while they last, stopped when they last too long, waited for at the end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_workmanager import Data, ForegroundInfo, State, StopReason
from tests.celery.house import House
from tests.celery.pool_worker import wait_until

pytestmark = pytest.mark.timeout(60)

Build = Callable[..., House]


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    """Starts a worker with these settings."""
    made: list[House] = []

    def start(**conf: Any) -> House:
        house = House(tmp_path, f"sqlite:///{tmp_path / 'store.sqlite3'}", "-P", "prefork", "-c", "2", conf=conf)
        made.append(house)
        house.start()
        return house

    yield start
    for house in made:
        house.close()


def enough(house: House) -> None:
    """Let works in the foreground come to their end."""
    (house.folder / "enough").touch()


def test_a_run_that_is_too_long_in_the_foreground_is_stopped_and_runs_again(build: Build):
    house = build(workmanager_foreground_timeout=0.5)
    (work_id,) = house.put("front", options={"backoff_delay": 1})
    wait_until(lambda: house.infos([work_id])[0].foreground)
    (info,) = house.infos([work_id])
    assert (info.foreground, info.progress) == (ForegroundInfo(7, "Packing the parcels"), Data(percent=1))
    house.noted("fronts", lambda line: line["event"] == "FOREGROUND_SERVICE_TIMEOUT")
    enough(house)
    (info,) = house.finished([work_id])
    stops = house.manager.get_stops(work_id)
    assert (info.state, info.run_attempt_count, info.foreground) == (State.SUCCEEDED, len(stops) + 1, None)
    assert {stop.reason for stop in stops} == {StopReason.FOREGROUND_SERVICE_TIMEOUT}


def test_a_cold_shutdown_waits_for_the_foreground_and_ends_the_rest(build: Build):
    house = build(workmanager_foreground_wait=30)
    (front,) = house.put("front")
    (listener,) = house.put("listen")
    house.running([front, listener])
    wait_until(lambda: house.infos([front])[0].foreground)
    house.send(signal.SIGQUIT)
    wait_until(lambda: house.infos([listener])[0].state is State.ENQUEUED)
    (info,) = house.infos([front])
    assert (info.state, info.foreground is not None) == (State.RUNNING, True)
    enough(house)
    house.ends()
    (info, other) = house.infos([front, listener])
    assert (info.state, other.stop_reason) == (State.SUCCEEDED, StopReason.SYSTEM_PROCESSING)


def test_without_a_wait_a_cold_shutdown_puts_the_foreground_back(build: Build):
    house = build()
    (front,) = house.put("front")
    wait_until(lambda: house.infos([front])[0].foreground)
    house.send(signal.SIGQUIT)
    house.ends()
    (info,) = house.infos([front])
    assert (info.state, info.stop_reason, info.foreground) == (State.ENQUEUED, StopReason.SYSTEM_PROCESSING, None)
    assert info.progress == Data(percent=1)
