"""What a node takes and what it stops, by its readings: the real dispatcher on a held clock."""

from __future__ import annotations

from typing import Any

import pytest

from celery_workmanager import Constraints, StopReason, TimeWindow
from celery_workmanager.clock import HeldClock
from celery_workmanager.lanes import LIMIT, TRIGGER, Lane, lanes_of
from celery_workmanager.offer import FORGOTTEN_AFTER, Offer
from celery_workmanager.outcome import Claim, Ending
from celery_workmanager.readings import Readings
from celery_workmanager.timing import SECOND
from tests.engine.scripted import GRACE, START, Node, World
from tests.stores import HOUR

CHARGING = Constraints(requires_charging=True)


def reads(node: Node, **words: Any) -> None:
    node.readings = Readings.of(START, node.readings, **words)


def test_a_node_takes_what_it_meets_and_leaves_the_rest(world: World):
    node, other = world.node(concurrency=10).join(), world.node(concurrency=10).join()
    reads(other, charging=True)
    world.enqueue(3)
    wants = world.enqueue(3, constraints=CHARGING)
    node.settle()
    assert len(node.running) == 3
    other.settle()
    assert sorted(other.running) == sorted(wants)


def test_unknown_readings_meet_nothing(world: World):
    node = world.node().join()
    (work,) = world.enqueue(constraints=CHARGING)
    node.settle()
    assert node.running == []
    reads(node, charging=True)
    node.settle()
    assert node.running == [work]


def test_other_workers_and_queues_are_not_its_own(world: World):
    node = world.node().join()
    reads(node, charging=True)
    node.worker = "another"
    world.enqueue(constraints=CHARGING)
    node.settle()
    assert node.running == []
    node.worker = "w"
    node.settle()
    assert len(node.running) == 1


def test_limited_and_triggered_works_are_not_claimed_in_batches(world: World):
    node = world.node().join()
    world.enqueue(constraints=Constraints(content_uri_triggers=("/inbox",)))
    node.settle()
    assert node.running == []


def test_a_constraint_that_is_lost_while_it_is_claimed_gives_the_work_back(world: World):
    node = world.node().join()
    (work,) = world.enqueue(constraints=CHARGING)
    (plain,) = world.enqueue()
    reads(node, charging=True)
    claims = [world.store.claim_one(each, node.dispatcher.node, 1)[0] for each in (work, plain)]
    reads(node, charging=False)
    node.dispatcher.take(claims)
    node.settle()
    assert node.engine.batches == [[plain]]
    info = world.info(work)
    assert (info.state.name, info.node, info.runs, info.run_attempt_count) == ("ENQUEUED", None, 0, 0)
    node.settle()
    assert node.running == [plain]  # and isn't claimed again where it would be lost again


def test_what_runs_is_stopped_once_with_the_first_reason_and_comes_back(world: World):
    node = world.node(concurrency=4).join()
    reads(node, charging=True, storage_free_percent=90)
    (both,) = world.enqueue(constraints=Constraints(requires_charging=True, requires_storage_not_low=True))
    (storage,) = world.enqueue(constraints=Constraints(requires_storage_not_low=True))
    (plain,) = world.enqueue()
    node.settle()
    for each in (both, storage, plain):
        node.began(each)
    node.dispatcher.stop_what_lost_its_constraints(GRACE)
    assert node.engine.stops == []
    reads(node, charging=False, storage_free_percent=0)
    for _ in range(2):
        node.dispatcher.stop_what_lost_its_constraints(GRACE)
    assert sorted(node.engine.stops) == sorted(
        [(both, StopReason.CONSTRAINT_CHARGING, GRACE), (storage, StopReason.CONSTRAINT_STORAGE_NOT_LOW, GRACE)]
    )
    node.ended(both, Ending.STOPPED, reason=StopReason.CONSTRAINT_CHARGING)
    node.settle()
    assert (world.states(both), node.running) == (["ENQUEUED"], [storage, plain])
    assert [stop.reason for stop in world.store.stops(both)] == [StopReason.CONSTRAINT_CHARGING]


def test_a_deadline_is_told_and_keeps_a_run(world: World):
    node = world.node().join()
    reads(node, charging=True)
    (early,) = world.enqueue(constraints=CHARGING, deadline=60)
    node.settle()
    assert "deadline_expired" not in node.engine.claims[early].options
    world.advance(60)
    reads(node, charging=False)
    node.dispatcher.stop_what_lost_its_constraints(GRACE)
    assert node.engine.stops == []
    (late,) = world.enqueue(constraints=CHARGING, deadline=1)
    world.advance(1)
    node.lease.step()
    node.settle()
    assert node.running == [early]
    node.upkeep.step()
    node.settle()
    assert node.running == [early, late]
    assert node.engine.claims[late].options["deadline_expired"]


@pytest.fixture
def asked() -> list[list[str]]:
    return []


def test_only_what_is_asked_for_is_watched_and_not_for_ever(asked: list[list[str]]):
    clock = HeldClock(START)
    offer = Offer(
        lambda: lanes_of(["q"], ["w"]),
        clock,
        lambda: Readings.NONE,
        lambda sets: asked.append(sorted(each.custom[0] for each in sets)),
    )
    one, two = Constraints(custom=("one",)), Constraints(custom=("two",))
    assert not offer.covers(Lane("q", "w", one))
    assert not offer.covers(Lane("q", "foreign", two))
    assert offer.covers(Lane("q", "w"))
    assert not offer.covers(Lane("q", "w", one, TRIGGER))
    assert asked == [["one"]]
    clock.move(round(FORGOTTEN_AFTER * SECOND) - SECOND)
    claim = Claim("id", "w", "q", 1, "n", 0, 0, 0, ["{}"], {"constraints": two.to_json()})
    lost = offer.lost(claim)
    assert lost is not None
    assert lost.constraint == "custom two"
    clock.move(2 * SECOND)
    offer.forget()
    assert asked == [["one"], ["one", "two"], ["two"]]
    offer.forget()
    assert len(asked) == 3


def test_the_marks_of_lanes():
    of = Lane.of("q", "w", {"constraints": CHARGING.to_json(), "concurrency": ["k", 1]})
    assert of == Lane("q", "w", CHARGING, LIMIT)
    assert Lane.of("q", "w", {"constraints": CHARGING.to_json(), "rate": ["k", 1, 1]}, is_overdue=True).mark == LIMIT


def test_new_readings_and_a_new_second_are_judged_anew():
    clock = HeldClock(START)
    readings = [Readings.of(START, charging=True)]
    offer = Offer(lambda: lanes_of(["q"], ["w"]), clock, lambda: readings[-1])
    lane = Lane("q", "w", CHARGING)
    assert offer.covers(lane)
    readings.append(Readings.of(START, charging=False))
    assert not offer.covers(lane)
    hour = Lane("q", "w", Constraints(time_windows=(TimeWindow("17:00", "18:00", "UTC"),)))
    clock.move((-START // SECOND) % 86400 * SECOND + 17 * HOUR - SECOND)
    assert not offer.covers(hour)
    clock.move(SECOND)
    assert offer.covers(hour)
