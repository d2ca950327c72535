"""Constraints on real workers: what loses them is stopped, and works go to the node that meets them."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import pytest

from celery_workmanager import Constraints, NetworkType, State, StopReason, WorkInfo
from celery_workmanager.store.leasing import NodeRow
from tests.celery.house import House
from tests.celery.pool_worker import wait_until

pytestmark = pytest.mark.timeout(120)

FINE: dict[str, Any] = {
    "charging": True,
    "battery_percent": 90,
    "network": "UNMETERED",
    "storage_free_percent": 80,
    "idle": True,
    "labels": {"zone": "a"},
}
CHARGING = {"constraints": Constraints(requires_charging=True)}


class Declared(House):
    """A worker whose readings a test declares."""

    def __init__(self, folder: Path, store: str, *options: str, **readings: Any) -> None:
        self._file = folder / "readings.json"
        self.read(**readings)
        conf = {
            "workmanager_readings_file": str(self._file),
            "workmanager_sensor_interval": 0.02,
            "workmanager_poll_interval": 0.1,
        }
        super().__init__(folder, store, *options, conf=conf)

    def read(self, **readings: Any) -> None:
        """Let the node read this, and that everything else is fine."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(json.dumps(FINE | readings))
        fresh.replace(self._file)

    def one(self, work_id: str) -> WorkInfo:
        (info,) = self.infos([work_id])
        return info

    def stopped(self, work_id: str, reason: StopReason) -> WorkInfo:
        """Wait until the work has been put back with this reason."""
        wait_until(
            lambda: (info := self.one(work_id)).state is State.ENQUEUED and info.stop_reason is reason,
            30,
            f"{work_id} is stopped with {reason.name}",
        )
        return self.one(work_id)

    def nodes(self) -> list[NodeRow]:
        """This worker's node; in a fleet it is named after the folder."""
        found = self.manager.store.nodes()
        return [node for node in found if node.name.startswith(f"{self.folder.name}@")] or found

    def tells(self, condition: Callable[[dict[str, Any]], bool]) -> None:
        """Wait until the node has published such readings."""

        def told() -> bool:
            return any(condition(json.loads(node.facts)["readings"]) for node in self.nodes())

        wait_until(told, 30, "the node tells what it reads")


@pytest.fixture(scope="module", params=["prefork", "threads", pytest.param("gevent", marks=pytest.mark.slow)])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Declared]:
    folder = tmp_path_factory.mktemp(request.param)
    made = Declared(folder, f"sqlite:///{folder / 'store.sqlite3'}", "-P", request.param, "-c", "2")
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture(autouse=True)
def fine(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "house" in request.fixturenames:
        house = request.getfixturevalue("house")
        house.manager.cancel_all_work()
        house.read()


@pytest.mark.parametrize(
    ("constraints", "lost", "reason"),
    [
        (
            Constraints(requires_battery_not_low=True, required_network_type=NetworkType.CONNECTED),
            {"battery_percent": 5, "network": "NOT_REQUIRED"},
            StopReason.CONSTRAINT_BATTERY_NOT_LOW,
        ),
        (Constraints(requires_charging=True), {"charging": False}, StopReason.CONSTRAINT_CHARGING),
        (
            Constraints(required_network_type=NetworkType.UNMETERED),
            {"network": "METERED"},
            StopReason.CONSTRAINT_CONNECTIVITY,
        ),
        (Constraints(requires_device_idle=True), {"idle": False}, StopReason.CONSTRAINT_DEVICE_IDLE),
        (
            Constraints(requires_storage_not_low=True),
            {"storage_free_percent": 0.5},
            StopReason.CONSTRAINT_STORAGE_NOT_LOW,
        ),
        (Constraints(node_labels=("zone=a",)), {"labels": {"zone": "b"}}, StopReason.DEVICE_STATE),
    ],
)
def test_a_run_that_listens_ends_with_the_reason(
    house: Declared, constraints: Constraints, lost: dict[str, Any], reason: StopReason
) -> None:
    (work_id,) = house.put("listen", options={"constraints": constraints})
    house.running([work_id])
    house.read(**lost)
    assert (
        house.noted("listeners", lambda line: line["id"] == work_id and line["event"] != "start")["event"]
        == reason.name
    )
    info = house.stopped(work_id, reason)
    assert (info.run_attempt_count, info.interruptions, info.node) == (0, 0, None)
    (stop,) = house.manager.get_stops(work_id)
    assert (stop.reason, stop.run_attempt_count) == (reason, 1)
    assert stop.started_at is not None
    # What the node meets runs beside it; the work itself begins again when it is met again.
    house.finished(house.put("mark"))
    assert house.one(work_id).runs == 1
    house.read()
    house.running([work_id])


def test_a_coroutine_is_cancelled(house: Declared) -> None:
    (work_id,) = house.put("linger", options=CHARGING)
    house.running([work_id])
    house.read(charging=False)
    assert house.noted("listeners", lambda line: line["id"] == work_id and line["event"] != "start")["event"] == (
        "CONSTRAINT_CHARGING"
    )
    house.stopped(work_id, StopReason.CONSTRAINT_CHARGING)


def test_a_run_past_its_deadline_goes_on(house: Declared) -> None:
    house.read(charging=False)
    house.tells(lambda readings: readings["power"]["value"]["charging"] is False)
    (late,) = house.put("listen", options={**CHARGING, "deadline": 0.2})
    house.running([late])
    house.read(charging=False, battery_percent=1)
    house.finished(house.put("mark", 3))
    assert house.one(late).state is State.RUNNING


def test_a_run_that_ignores_it_is_terminated_after_the_grace(house: Declared, request: pytest.FixtureRequest) -> None:
    if "threads" in request.node.name:
        pytest.skip("threads can only be asked")
    (work_id,) = house.put("deaf", options=CHARGING)
    house.running([work_id])
    pid = house.noted("deaf", lambda line: line["id"] == work_id)["pid"]
    began = time.monotonic()
    house.read(charging=False)
    info = house.stopped(work_id, StopReason.CONSTRAINT_CHARGING)
    assert time.monotonic() - began >= 0.5  # the grace of this worker
    assert (info.run_attempt_count, info.interruptions) == (0, 0)
    if "prefork" in request.node.name:
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), 30, "the child is gone")
        wait_until(lambda: house.children() == 2, 30, "another takes its place")
    house.finished(house.put("mark", 4))


# -- a fleet of two ------------------------------------------------------------------------------------------


class Fleet:
    """Two workers over one store, of which a test says what each reads."""

    def __init__(self, folder: Path) -> None:
        store = f"sqlite:///{folder / 'store.sqlite3'}"
        self.nodes: list[Declared] = []
        for name in ("north", "south"):
            (folder / name).mkdir()
            options = ("-P", "threads", "-c", "2", "-n", f"{name}@%h")
            self.nodes.append(Declared(folder / name, store, *options, charging=False))

    def __enter__(self) -> Self:
        starts = [threading.Thread(target=node.start) for node in self.nodes]
        for start in starts:
            start.start()
        for start in starts:
            start.join()
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.close()

    def begun(self, node: Declared) -> int:
        """How many runs have begun there."""
        return len(node.lines("naps", "start"))

    def turn_off(self, node: Declared) -> None:
        """Let a node read that it isn't charging, and wait until it knows, and holds nothing that needs it."""
        node.read(charging=False)
        node.tells(lambda readings: readings["power"]["value"]["charging"] is False)
        store = node.manager.store
        wait_until(lambda: not any(store.owned(each.id) for each in node.nodes()), 30, "it lets go of its works")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("fleet")) as made:
        yield made


def test_works_go_to_the_node_that_meets_them(fleet: Fleet) -> None:
    north, south = fleet.nodes
    north.read(labels={"zone": "north", "cpus": "8"}, charging=False)
    south.read(labels={"zone": "south", "cpus": "2"}, charging=True)
    ids = {
        "north": north.put("mark", 20, options={"constraints": Constraints(node_labels=("zone=north",))}),
        "south": north.put("mark", 20, options=CHARGING),
    }
    nobody = north.put("mark", options={"constraints": Constraints(node_labels=("zone=west",))})
    for infos in map(north.finished, ids.values()):
        assert {(info.run_attempt_count, info.runs) for info in infos} == {(1, 1)}  # none was bounced
    for node in fleet.nodes:
        assert sorted(line["id"] for line in node.lines("marks")) == sorted(ids[node.folder.name])
    assert north.one(nobody[0]).state is State.ENQUEUED
    north.manager.cancel_all_work()


def test_readings_that_flip_under_load_lose_nothing(fleet: Fleet) -> None:
    flip_for_a_while(fleet, works=200, rounds=2)


@pytest.mark.slow
@pytest.mark.skipif("WORKMANAGER_SOAK" not in os.environ, reason="a minute long: WORKMANAGER_SOAK asks for it")
def test_readings_that_flip_for_a_minute_lose_nothing(fleet: Fleet) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        flip_for_a_while(fleet, works=1500, rounds=3, pause=1.0)


def flip_for_a_while(fleet: Fleet, *, works: int, rounds: int, pause: float = 0.1) -> None:
    """Flip what the nodes read at random, then in turns; all works end, no attempt is spent, nothing begins in vain."""
    north, south = fleet.nodes
    ids = north.put("nap", works, seconds=0.03, options=CHARGING)
    ids += north.put("mark", works // 4)
    draw = random.Random(6)
    wanted = sum(map(fleet.begun, fleet.nodes)) + works // 2
    while sum(map(fleet.begun, fleet.nodes)) < wanted:
        draw.choice(fleet.nodes).read(charging=draw.random() < 0.6)
        time.sleep(draw.uniform(0, 2 * pause))  # how long readings last is part of the test
    for round_ in range(rounds):
        off, on = (north, south) if round_ % 2 else (south, north)
        on.read(charging=True)
        fleet.turn_off(off)
        extra = north.put("nap", 10, seconds=0.01, options=CHARGING)
        before = fleet.begun(off)
        north.finished(extra, 60)
        assert fleet.begun(off) == before
        ids += extra
    for node in fleet.nodes:
        node.read(charging=True)
    check(north.finished(ids, 60))


def check(infos: Sequence[WorkInfo]) -> None:
    assert {(info.state, info.run_attempt_count, info.interruptions) for info in infos} == {(State.SUCCEEDED, 1, 0)}
