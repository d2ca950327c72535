"""Works with constraints in the store: their lanes, their deadlines, and the ledger of stops."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from celery_workmanager import Constraints, NetworkType, State, StopReason
from celery_workmanager.constraints import key_of
from celery_workmanager.errors import ConstraintsWarning
from celery_workmanager.lanes import LIMIT, TRIGGER, Lane, lane_of, lane_with
from celery_workmanager.limits import Limit, Rate
from celery_workmanager.offer import Offer
from celery_workmanager.outcome import Ending
from celery_workmanager.pauses import PauseKind, PauseTarget
from celery_workmanager.readings import Readings
from celery_workmanager.store import Store, claiming, pausing
from celery_workmanager.timing import SECOND
from tests.stores import (
    HOUR,
    QUEUE,
    START,
    WORKER,
    end,
    enqueue,
    every,
    info,
    job,
    make_store,
    move,
    put,
    put_chain,
    register,
    row,
    rows_of,
    sql,
    start,
    state,
    step,
    take,
    take_one,
)

CHARGING = Constraints(requires_charging=True)
CONNECTED = Constraints(required_network_type=NetworkType.CONNECTED)
PLAIN = lane_of(QUEUE, WORKER)


@contextmanager
def statements(store: Store) -> Iterator[list[str]]:
    """The statements that are run meanwhile."""
    found: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "workmanager_" in statement:
            found.append(statement)

    engines = {store.database.engine(), store.database.engine(relaxed=True)}
    for engine in engines:
        event.listen(engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        for engine in engines:
            event.remove(engine, "before_cursor_execute", note)


# -- lanes ---------------------------------------------------------------------------------------------------


def test_works_that_ask_for_the_same_share_a_lane(store: Store):
    put(
        store,
        job("plain"),
        job("a", constraints=CHARGING),
        job("b", constraints=Constraints(requires_charging=True)),
        job("c", constraints=CONNECTED),
        job("limited", concurrency=Limit("k", 1)),
        job("rated", rate=Rate("other", 1, 60)),
        job("watching", constraints=Constraints(content_uri_triggers=("/inbox",), requires_charging=True)),
        job("elsewhere", constraints=CHARGING, queue="other"),
    )
    lanes = {
        each: row(store, each).ready_lane
        for each in ("plain", "a", "b", "c", "limited", "rated", "watching", "elsewhere")
    }
    assert lanes["plain"] == PLAIN
    assert lanes["a"] == lanes["b"]
    assert lanes["limited"] == lanes["rated"]
    assert len(set(lanes.values())) == 6
    seen = store.look([PLAIN])
    assert sorted(seen.lanes) == sorted(set(lanes.values()))
    assert seen.kinds == {
        lanes["a"]: Lane(QUEUE, WORKER, CHARGING),
        lanes["c"]: Lane(QUEUE, WORKER, CONNECTED),
        lanes["limited"]: Lane(QUEUE, WORKER, mark=LIMIT),
        lanes["watching"]: Lane(QUEUE, WORKER, CHARGING, TRIGGER),
        lanes["elsewhere"]: Lane("other", WORKER, CHARGING),
    }
    assert [claim.id for claim in take(store)] == ["plain"]
    assert sorted(claim.id for claim in store.claim([lanes["a"]], "node", 1, 10)) == ["a", "b"]


def test_what_a_lane_stands_for_is_looked_up_once(store: Store):
    claiming.forget_lanes()
    put(store, *(job(f"a{n}", constraints=Constraints(node_labels=(f"rack={n}",))) for n in range(3)))
    with statements(store) as first:
        assert len(store.look([PLAIN]).kinds) == 3
    with statements(store) as second:
        assert len(store.look([PLAIN]).kinds) == 3
    assert (len(first), len(second)) == (4, 1)


def test_lanes_that_this_version_cannot_tell_are_left_out(store: Store):
    put(store, job("a", constraints=Constraints(node_labels=("rack=later",))))
    later = json.dumps({"constraints": {"requires_moonlight": True}})
    sql(store, "UPDATE workmanager_work SET options = :later, lane = 7, ready_lane = 7", later=later)
    assert store.look([PLAIN]).lanes == []
    assert store.look().lanes == [7]


LATER = {"requires_charging": True, "requires_moonlight": {"phase": "full"}}


def written_by_a_later_version(store: Store, **request: Any) -> None:
    """Put the work "a" with a constraint that this version doesn't know."""
    put(store, job("a", constraints=CHARGING, **request))
    options = json.loads(row(store, "a").options) | {"constraints": LATER}
    there = {"later": json.dumps(options), "lane": lane_of(QUEUE, WORKER, key_of(LATER))}
    sql(store, "UPDATE workmanager_work SET options = :later, lane = :lane, ready_lane = :lane", **there)


def test_a_work_of_a_later_version_is_left_alone_and_shown(store: Store):
    written_by_a_later_version(store)
    put(store, job("b", constraints=CHARGING))
    assert list(store.look([PLAIN]).kinds.values()) == [Lane(QUEUE, WORKER, CHARGING)]
    assert info(store, "a").constraints == CHARGING
    store.cancel("a")
    assert state(store, "a") is State.CANCELLED


def test_it_keeps_its_lane_when_it_is_run_again(store: Store):
    written_by_a_later_version(store)
    store.cancel("a")
    store.retry("a", "again")
    assert row(store, "again").ready_lane == lane_of(QUEUE, WORKER, key_of(LATER))


def test_past_its_deadline_any_node_runs_it(store: Store):
    written_by_a_later_version(store, deadline=1)
    move(store, 2 * SECOND)
    store.pass_deadlines()
    (claim,) = take(store)
    offer = Offer(dict, store.clock, lambda: Readings.of(charging=False))
    assert (claim.id, offer.lost(claim)) == ("a", None)


def test_the_next_run_of_periodic_work_of_a_later_version_is_left_to_it(store: Store):
    lane = lane_of(QUEUE, WORKER, key_of(LATER))
    put(store, every("a", constraints=CHARGING, deadline=1))
    options = json.loads(row(store, "a").options) | {"constraints": LATER}
    there = {"later": json.dumps(options), "lane": lane}
    sql(store, "UPDATE workmanager_work SET options = :later, lane = :lane, ready_lane = :lane", **there)
    move(store, 2 * SECOND)
    store.pass_deadlines()
    (claim,) = take(store)
    end(store, claim)
    assert row(store, "a").lane == lane


def test_a_lane_of_works_past_their_deadline_is_that_of_works_without_constraints(store: Store):
    """Also where its worker is not known, so that a node looks into it."""
    worker = "shop.overdue"
    put(store, job("a", worker, constraints=CHARGING, deadline=1, concurrency=Limit("k", 1)))
    move(store, 2 * SECOND)
    assert store.pass_deadlines() == 1
    (lane,) = store.look([PLAIN]).lanes
    assert store.look([PLAIN]).kinds == {lane: Lane(QUEUE, worker, mark=LIMIT)}


def test_paused_queues_and_workers_cover_works_with_constraints(store: Store):
    put(store, job("a", constraints=CHARGING), job("b", "shop.sell", constraints=CHARGING))
    pausing.pause(store, PauseTarget(PauseKind.TAG, WORKER))
    seen = store.look([])
    assert [kind.worker for kind in seen.kinds.values() if kind.number in seen.lanes] == ["shop.sell"]
    pausing.pause(store, PauseTarget(PauseKind.QUEUE, QUEUE))
    assert store.look([]).lanes == []


def test_a_work_keeps_its_lane_through_all_that_happens_to_it(store: Store):
    lane = lane_with(QUEUE, WORKER, {"constraints": CHARGING.to_json()})
    enqueue(store, step(job("first")), step(job("second", constraints=CHARGING, initial_delay=5), after=["first"]))
    end(store, take_one(store, "first"))
    move(store, 5 * SECOND)
    assert row(store, "second").ready_lane == lane
    for ending in (Ending.STOPPED, Ending.GIVEN_BACK, Ending.RETRY, Ending.LOST):
        claim = take_one(store, "second")
        if ending is Ending.LOST:
            start(store, claim)
        end(store, claim, ending=ending, **({"reason": StopReason.TIMEOUT} if ending is Ending.STOPPED else {}))
        move(store, 3600 * SECOND)
        assert row(store, "second").ready_lane == lane
    store.update(job("second", constraints=CONNECTED), QUEUE)
    assert row(store, "second").ready_lane == lane_with(QUEUE, WORKER, {"constraints": CONNECTED.to_json()})
    end(store, take_one(store, "second"))
    store.retry("second", "again")
    assert row(store, "again").ready_lane == row(store, "second").lane


def test_of_more_lanes_than_fit_into_a_statement_all_have_their_turn(store: Store):
    rules = [Constraints(node_labels=(f"rack={n}",)) for n in range(claiming.MOST_LANES + 20)]
    put(store, *(job(constraints=each) for each in rules for _ in range(2)))
    lanes = store.look([]).lanes
    claims = [claim for token in range(0, 120, 12) for claim in store.claim(lanes, "node", token, 30)]
    assert (len(lanes), len(claims)) == (120, 240)


# -- what others pay -----------------------------------------------------------------------------------------


def test_works_without_constraints_pay_nothing(store: Store):
    """No statement more for what a node does all day, and no column more."""
    with statements(store) as enqueued:
        put(store, *(job() for _ in range(3)))
        put(store, job("with", constraints=CHARGING, deadline=60))
    plain, constrained = (each for each in enqueued if each.startswith("INSERT INTO workmanager_work "))
    assert "deadline_at" not in plain
    assert "deadline_at" in constrained
    lanes = [PLAIN, row(store, "with").lane]
    with statements(store) as run:
        seen = store.look(lanes)
        claims = store.claim([PLAIN], "node", 1, 10, stamp=seen.stamp)
        end(store, *claims)
    kinds = [re.split(r"\W+", each.lstrip())[0] for each in run if "workmanager_work" in each]
    updates = [each for each in run if re.match(r"(WITH .*)?UPDATE workmanager_work", each, re.DOTALL)]
    assert len(claims) == 3
    assert not any("deadline" in each or "workmanager_stop" in each for each in run)
    assert (kinds.count("SELECT") <= 4, len(updates)) == (True, 2), run


# -- deadlines -----------------------------------------------------------------------------------------------


def test_a_deadline_changes_the_lane_whatever_the_state(store: Store):
    given: dict[str, Any] = {"constraints": CHARGING, "deadline": 60}
    put(store, job("ready", **given), job("claimed", **given))
    with pytest.warns(ConstraintsWarning, match="comes before the initial delay"):
        put(store, job("delayed", initial_delay=90, **given))
    put(
        store, job("done", **given), job("held", tags={"red"}, **given), job("later", constraints=CHARGING, deadline=61)
    )
    enqueue(store, step(job("first")), step(job("blocked", **given), after=["first"]))
    pausing.pause(store, PauseTarget(PauseKind.TAG, "red"))
    take_one(store, "claimed")
    end(store, take_one(store, "done"))
    assert store.next_moment() == START + 60 * SECOND
    assert store.pass_deadlines() == 0
    move(store, 60 * SECOND)
    assert store.pass_deadlines() == 6
    for each in ("ready", "delayed", "claimed", "done", "held", "blocked"):
        found = row(store, each)
        assert (found.lane, found.deadline_at, found.ready_lane) == (PLAIN, None, PLAIN if each == "ready" else None)
    assert row(store, "later").ready_lane not in (PLAIN, None)
    assert store.next_moment() == START + 61 * SECOND
    assert store.pass_deadlines() == 0
    move(store, 30 * SECOND)
    assert row(store, "delayed").ready_lane == PLAIN


def test_many_deadlines_pass_in_chunks(store: Store):
    put(store, *(job(constraints=CHARGING, deadline=1) for _ in range(1001)))
    move(store, SECOND)
    assert store.pass_deadlines() == 1001
    assert store.look().lanes == [PLAIN]


def test_a_period_brings_the_constraints_back(store: Store):
    put(store, every("tick", seconds=3600, constraints=CHARGING, deadline=60))
    own = row(store, "tick").lane
    assert row(store, "tick").deadline_at == START + 60 * SECOND
    move(store, 60 * SECOND)
    store.pass_deadlines()
    assert row(store, "tick").ready_lane == PLAIN
    (claim,) = take(store)
    assert claim.options["deadline"] == START + 60 * SECOND
    end(store, claim)
    found = row(store, "tick")
    assert (found.lane, found.deadline_at) == (own, found.run_at + 60 * SECOND)
    store.update(every("tick", seconds=7200, constraints=CHARGING, deadline=30), QUEUE)
    found = row(store, "tick")
    assert found.deadline_at == found.run_at + 30 * SECOND == json.loads(found.options)["deadline"]


# -- the ledger ----------------------------------------------------------------------------------------------


def test_stops_are_written_with_the_ends_of_the_runs(store: Store):
    put(store, "short", "long", "lost", "unstarted")
    register(store, lease=SECOND)
    short, long, lost, _ = (take_one(store, each) for each in ("short", "long", "lost", "unstarted"))
    start(store, long, lost)
    move(store, 5 * SECOND)
    end(store, short, long, ending=Ending.STOPPED, reason=StopReason.CONSTRAINT_CONNECTIVITY)
    while store.heal(store.clock.now()):
        pass
    (stop,) = store.stops("short")
    assert (stop.number, stop.reason, stop.node) == (1, StopReason.CONSTRAINT_CONNECTIVITY, "node")
    assert stop.started_at == stop.stopped_at
    (stop,) = store.stops("long")
    assert stop.started_at is not None
    assert (stop.stopped_at - stop.started_at).total_seconds() == 5
    (stop,) = store.stops("lost")
    assert (stop.reason, stop.run_attempt_count, stop.node) == (StopReason.UNKNOWN, 1, "node")
    assert store.stops("unstarted") == []
    assert info(store, "long").run_attempt_count == 0


def test_the_loss_that_ends_a_period_is_a_stop_like_those_before(store_address: str):
    store = make_store(store_address, max_interruptions=2)
    put(store, every("a"))
    for expected in (1, 2):
        store.promote()
        move(store, HOUR)
        end(store, take_one(store, "a"), ending=Ending.LOST)
        assert [each.reason for each in store.stops("a")] == [StopReason.UNKNOWN] * expected
    assert info(store, "a").period_count == 1
    store.close()


def test_a_refused_end_leaves_no_entry(store: Store):
    put(store, "a")
    late = take_one(store, "a")
    end(store, late, ending=Ending.STOPPED, reason=StopReason.QUOTA)
    take_one(store, "a")
    assert end(store, late, ending=Ending.STOPPED, reason=StopReason.QUOTA).stale == {"a"}
    assert len(store.stops("a")) == 1


def test_the_newest_stops_are_kept_and_go_with_their_work(store_address: str):
    store = make_store(store_address, keep_stops=2)
    put(store, "a", "b")
    for _ in range(4):
        end(store, take_one(store, "a"), ending=Ending.STOPPED, reason=StopReason.PREEMPT)
    end(store, take_one(store, "b"), ending=Ending.STOPPED, reason=StopReason.PREEMPT)
    assert [each.number for each in store.stops("a")] == [4, 3]
    assert rows_of(store, "stop") == 3
    end(store, take_one(store, "a"))
    store.prune(only_expired=False)
    assert (store.stops("a"), rows_of(store, "stop")) == ([], 1)
    store.close()
    none = make_store(store_address, keep_stops=0)
    end(none, take_one(none, "b"), ending=Ending.STOPPED, reason=StopReason.PREEMPT)
    assert (rows_of(none, "stop"), state(none, "b")) == (1, State.ENQUEUED)
    none.close()


def test_cancelling_a_running_work_is_a_stop(store: Store):
    put_chain(store, "a", "b")
    start(store, take_one(store, "a"))
    store.cancel("a")
    assert [each.reason for each in store.stops("a")] == [StopReason.CANCELLED_BY_APP]
    assert store.stops("b") == []
