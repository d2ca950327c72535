"""Claiming: order, lanes, expiry, promotion; starts and progress."""

from __future__ import annotations

from typing import Any

from celery_workmanager.data import Data
from celery_workmanager.lanes import lane_of
from celery_workmanager.outcome import Ending
from celery_workmanager.policies import OutOfQuotaPolicy
from celery_workmanager.store import Store
from celery_workmanager.store.upkeeping import promote
from celery_workmanager.timing import SECOND
from celery_workmanager.work import State, StopReason
from tests.stores import (
    HOUR,
    QUEUE,
    START,
    WORKER,
    end,
    enqueue,
    info,
    job,
    move,
    put,
    put_chain,
    row,
    start,
    state,
    states,
    step,
    succeed,
    take,
    take_one,
)

EXPEDITED: dict[str, Any] = {"expedited": OutOfQuotaPolicy.RUN_AS_NON_EXPEDITED_WORK_REQUEST}


def test_expedited_works_come_first_then_priority_then_age(store: Store):
    put(store, job("old"))
    move(store, SECOND)
    put(store, job("young"), job("urgent", priority=255), job("a bit", priority=1), job("expedited", **EXPEDITED))
    move(store, SECOND)
    put(store, job("both", priority=1, **EXPEDITED))
    assert [claim.id for claim in take(store)] == ["both", "expedited", "urgent", "a bit", "old", "young"]


def test_works_that_are_ready_at_one_moment_come_by_their_ids_which_grow_with_time(store: Store):
    put(store, *(job(f"w{n:02}") for n in (3, 1, 0, 2)))
    assert [claim.id for claim in take(store, 2)] == ["w00", "w01"]
    put(store, job("v"), job("w", worker="two"))
    assert [claim.id for claim in take(store, 3, workers=(WORKER, "two"))] == ["v", "w", "w02"]


def test_the_order_holds_across_lanes(store: Store):
    put(store, job("a", worker="one", priority=1), job("b", worker="two", priority=2), job("c", worker="one"))
    assert [claim.id for claim in take(store, 2, workers=("one", "two"))] == ["b", "a"]
    assert [claim.id for claim in take(store, workers=("one", "two"))] == ["c"]


def test_a_node_claims_only_for_its_queues_and_the_workers_it_knows(store: Store):
    put(store, job("a"), job("b", queue="ovens"), job("c", worker="shop.sell"))
    assert [claim.id for claim in take(store)] == ["a"]
    assert [claim.id for claim in take(store, queues=("ovens",))] == ["b"]
    assert take(store, queues=("ovens",)) == []


def test_the_lanes_in_which_something_waits_are_found(store: Store):
    put(store, job("a"), job("b"), job("c", queue="ovens"), job("later", worker="later", initial_delay=60))
    put_chain(store, "p", job("q", worker="blocked").id)
    assert sorted(store.ready_lanes()) == sorted([lane_of("celery", WORKER), lane_of("ovens", WORKER)])
    take(store)
    assert store.ready_lanes() == [lane_of("ovens", WORKER)]


def test_a_claim_tells_the_node_all_it_needs(store: Store):
    put(store, job("a", input={"n": 1}, time_limit=3, tags={"x"}, max_attempts=2))
    (claim,) = take(store, token=77)
    assert (claim.id, claim.worker, claim.queue, claim.token, claim.node) == ("a", WORKER, "celery", 77, "node")
    assert (claim.inputs, claim.generation, claim.run_attempt_count, claim.interruptions) == (['{"n":1}'], 0, 0, 0)
    assert claim.options == {"time_limit": 3.0, "tags": ["x"], "max_attempts": 2}
    assert store.owned("node") == {"a": 77}
    assert state(store, "a") is State.ENQUEUED


def test_outputs_of_the_prerequisites_follow_the_own_input_in_their_order(store: Store):
    put_chain(store, ["z", "a", "m"], "join")
    for each in "amz":
        succeed(store, each, output=f'{{"from": "{each}"}}')
    (claim,) = take(store)
    assert claim.inputs == ["{}", '{"from": "z"}', '{"from": "a"}', '{"from": "m"}']


def test_a_claimed_work_is_claimed_once(store: Store):
    put(store, "a", "b", "c")
    assert len(take(store, 2)) == 2
    assert len(take(store, 2)) == 1
    assert take(store, 2) == []
    assert store.claim_one("a", "other", 5) == []


def test_a_claim_takes_no_more_than_asked_for_from_many_lanes(store: Store):
    workers = [f"w{n}" for n in range(30)]
    put(store, *(job(worker=worker) for worker in workers for _ in range(3)))
    assert len(take(store, 7, workers=workers)) == 7
    assert len(take(store, 200, workers=workers)) == 83


# -- time ----------------------------------------------------------------------------------------------------


def test_a_delayed_work_is_claimed_when_it_is_promoted_and_not_before(store: Store):
    put(store, job("a", initial_delay=60), job("b", initial_delay=61))
    assert store.next_moment() == START + 60 * SECOND
    assert take(store) == []
    move(store, 60 * SECOND - 1)
    assert take(store) == []
    move(store, 1)
    assert [claim.id for claim in take(store)] == ["a"]
    assert store.next_moment() == START + 61 * SECOND


def test_a_delay_of_a_blocked_work_counts_from_its_unblocking(store: Store):
    put(store, "a")
    enqueue(store, step("a"), step(job("b", initial_delay=60), after=("a",)))
    move(store, HOUR)
    succeed(store, "a")
    assert row(store, "b").due_at == START + HOUR + 60 * SECOND
    move(store, 60 * SECOND)
    assert [claim.id for claim in take(store)] == ["b"]


def test_promotion_goes_on_in_chunks_until_all_that_is_due_is_ready(store: Store):
    put(store, *(job(initial_delay=60) for _ in range(25)))
    store.clock.move(HOUR)  # type: ignore[attr-defined]
    with store.database.transaction() as connection:
        assert promote(connection, store.clock.now(), limit=10) == 10
    assert store.promote() == 15
    assert len(take(store, 100)) == 25


def test_promotion_orders_by_the_moment_works_were_due(store: Store):
    put(store, job("late", initial_delay=20), job("early", initial_delay=10))
    move(store, HOUR)
    put(store, "now")
    assert [claim.id for claim in take(store)] == ["early", "late", "now"]


def test_a_work_that_waits_for_its_moment_can_be_made_due(store: Store):
    put(store, job("a", initial_delay=60))
    assert store.make_due("a") is True
    assert [claim.id for claim in take(store)] == ["a"]
    assert store.make_due("a") is False


def test_a_work_that_had_to_start_by_now_is_not_claimed_but_cancelled(store: Store):
    put(store, job("a", expires=60), job("b", expires=61))
    move(store, 60 * SECOND)
    assert [claim.id for claim in take(store)] == ["b"]
    assert store.expire() == ["a"]
    assert state(store, "a") is State.CANCELLED
    assert info(store, "a").error is not None
    assert info(store, "a").stop_reason is StopReason.NOT_STOPPED
    assert "expired" in str(info(store, "a").error)


def test_expiry_takes_along_all_that_depends_on_the_work(store: Store):
    put(store, job("a", expires=60))
    enqueue(store, step("a"), step("b", after=("a",)))
    move(store, HOUR)
    assert store.expire() == ["a", "b"]
    assert states(store) == {"a": "CANCELLED", "b": "CANCELLED"}


def test_a_claimed_work_does_not_expire_and_no_moment_waits_for_it(store: Store):
    put(store, job("a", expires=60))
    (claim,) = take(store)
    assert store.next_moment() is None
    move(store, HOUR)
    assert store.expire() == []
    assert end(store, claim).accepted == {"a"}
    assert row(store, "a").expires_at is None


# -- starts and progress -------------------------------------------------------------------------------------


def test_a_written_start_is_a_run_and_an_attempt(store: Store):
    put(store, "a")
    (claim,) = take(store)
    assert start(store, claim) == {"a"}
    found = info(store, "a")
    assert (found.state, found.run_attempt_count, found.runs) == (State.RUNNING, 1, 1)
    assert found.started_at is not None
    assert found.stop_reason is StopReason.NOT_STOPPED


def test_a_start_is_written_once(store: Store):
    put(store, "a")
    (claim,) = take(store)
    assert start(store, claim) == {"a"}
    assert start(store, claim) == set()
    assert info(store, "a").run_attempt_count == 1


def test_progress_is_replaced_and_goes_with_the_success(store: Store):
    put(store, "a")
    (claim,) = take(store)
    start(store, claim)
    assert store.write_progress([(claim, '{"percent": 10}')]) == {"a"}
    assert store.write_progress([(claim, '{"percent": 20}')]) == {"a"}
    assert info(store, "a").progress["percent"] == 20
    end(store, claim)
    assert info(store, "a").progress == Data.EMPTY


def test_progress_is_seen_as_a_change(store: Store):
    put(store, "a")
    (claim,) = take(store)
    start(store, claim)
    before = info(store, "a").version
    store.write_progress([(claim, '{"percent": 10}')])
    assert info(store, "a").version > before


def test_a_work_that_does_not_run_has_no_progress(store: Store):
    """WorkManager: progress is accepted only while RUNNING."""
    put(store, "a")
    (claim,) = take(store)
    assert store.write_progress([(claim, '{"percent": 10}')]) == set()
    assert info(store, "a").progress == Data.EMPTY


def test_a_run_that_lost_its_work_can_neither_start_nor_progress_nor_end(store: Store):
    put(store, "a", "b")
    first = take_one(store, "a")
    assert end(store, first, ending=Ending.GIVEN_BACK).accepted == {"a"}
    second = take_one(store, "a")
    before = row(store, "a")
    assert start(store, first) == set()
    assert store.write_progress([(first, "{}")]) == set()
    for ending in Ending:
        assert end(store, first, ending=ending).stale == {"a"}
    assert row(store, "a") == before
    assert end(store, second).accepted == {"a"}


def test_a_capped_lane_gives_no_more_than_its_cap_and_others_what_is_left(store: Store):
    put(store, *(job(priority=9) for _ in range(5)), *(job(worker="shop.sell") for _ in range(5)))
    first, second = lane_of(QUEUE, WORKER), lane_of(QUEUE, "shop.sell")

    def claimed(lanes: list[int], token: int, limit: int, cap: int) -> list[str]:
        return [claim.worker for claim in store.claim(lanes, "node", token, limit, caps={first: cap})]

    assert claimed([first, second], 1, 4, 2) == [WORKER, WORKER, "shop.sell", "shop.sell"]
    # The most urgent first, whatever is capped.
    assert claimed([first, second], 2, 1, 3) == [WORKER]
    assert claimed([first], 3, 10, 1) == [WORKER]
    assert claimed([first], 4, 0, 1) == []
