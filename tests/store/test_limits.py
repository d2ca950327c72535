"""Limits of the fleet: permits and rates at the claim, parking, release, and whatever else happens to such works."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import select

from celery_workmanager.lanes import LIMIT, lane_of
from celery_workmanager.limits import Limit, Rate
from celery_workmanager.outcome import Claim, Ending
from celery_workmanager.pauses import PauseKind, PauseTarget
from celery_workmanager.store import Store, limiting, pausing
from celery_workmanager.tables import limit as limit_table
from celery_workmanager.timing import SECOND
from celery_workmanager.work import State, StopReason
from tests.stores import (
    HOUR,
    QUEUE,
    REPLACE,
    WORKER,
    end,
    enqueue,
    info,
    job,
    move,
    put,
    put_named,
    register,
    row,
    rows_of,
    start,
    state,
    step,
    succeed,
    take_one,
)

TWO: dict[str, Any] = {"concurrency": Limit("oven", 2)}
ONE: dict[str, Any] = {"concurrency": Limit("oven", 1)}
TENANT = Limit("tenant:{tenant}", 1)
_tokens = iter(range(1000, 10**6))


def take(store: Store, limit: int = 10, *, workers: tuple[str, ...] = (WORKER,), node: str = "node") -> list[Claim]:
    """Claim works that have limits."""
    lanes = [lane_of(QUEUE, worker, "", LIMIT) for worker in workers]
    return store.claim_limited(lanes, node, next(_tokens), limit)


def ids(claims: list[Claim]) -> list[str]:
    return [claim.id for claim in claims]


def pass_time(store: Store, microseconds: int) -> None:
    move(store, microseconds)
    store.wake_limited()


@contextmanager
def without_releases(store: Store) -> Iterator[None]:
    """As if the node died each time between an end and the wake-up of who waits for it."""
    store.release = lambda ids: None  # type: ignore[method-assign]
    yield
    del store.release


def wake_at(store: Store, key: str) -> int | None:
    with store.database.plain() as connection:
        return connection.execute(select(limit_table.c.wake_at).where(limit_table.c.key == key)).scalar()


def parked(store: Store, *keys: str) -> list[str | None]:
    return [row(store, key).parked_by for key in keys]


# -- how many at once -------------------------------------------------------------------------------------------------


def test_no_more_run_at_once_than_the_limit_says_and_the_next_follow_in_order(store: Store):
    put(store, *(job(each, **TWO) for each in "abcde"))
    a, b = take(store)
    assert ids([a, b]) == ["a", "b"]
    assert parked(store, *"abcde") == [None, None, "oven", "oven", "oven"]
    assert store.ready_lanes() == []
    assert take(store) == []
    end(store, b)
    (c,) = take(store)
    assert c.id == "c"
    end(store, a, c)
    assert ids(take(store)) == ["d", "e"]
    assert parked(store, *"de") == [None, None]


def test_works_without_limits_in_other_lanes_are_not_looked_at(store: Store):
    put(store, job("a", **ONE), "b")
    assert ids(take(store)) == ["a"]
    assert row(store, "b").ready_lane == lane_of(QUEUE, WORKER)
    assert rows_of(store, "permit") == 1


@pytest.mark.parametrize("ending", [Ending.SUCCEEDED, Ending.FAILED, Ending.RETRY, Ending.STOPPED, Ending.GIVEN_BACK])
def test_however_a_run_ends_it_makes_room_at_once(store: Store, ending: Ending):
    put(store, job("a", **ONE), job("b", **ONE))
    (a,) = take(store)
    assert take(store) == []
    end(store, a, ending=ending)
    assert rows_of(store, "permit") == 0
    assert ids(take(store)) == (["a"] if ending in (Ending.STOPPED, Ending.GIVEN_BACK) else ["b"])


def test_the_limit_holds_across_workers_queues_and_nodes(store: Store):
    put(store, job("a", **TWO), job("b", worker="two", **TWO), job("c", worker="two", **TWO))
    assert ids(take(store)) == ["a"]
    assert ids(take(store, workers=("two",), node="other")) == ["b"]
    assert parked(store, "c") == ["oven"]


def test_each_key_of_the_input_has_a_limit_of_its_own(store: Store):
    put(store, *(job(f"{t}{n}", input={"tenant": t}, concurrency=TENANT) for t in "xyz" for n in (1, 2)))
    assert ids(take(store)) == ["x1", "y1", "z1"]
    assert parked(store, "x2", "y2") == ["tenant:x", "tenant:y"]


def test_the_own_number_of_each_work_counts_for_it(store: Store):
    put(store, job("a", **TWO), job("b", **ONE), job("c", **TWO))
    assert ids(take(store)) == ["a", "c"]
    assert parked(store, "b") == ["oven"]


def test_the_works_of_a_full_key_hide_no_others_and_are_parked_once(store: Store):
    crowd = [job(f"a{n:04}", input={"tenant": "big"}, concurrency=TENANT) for n in range(400)]
    put(store, *crowd, *(job(f"b{n}", input={"tenant": f"small-{n}"}, concurrency=TENANT) for n in range(3)))
    assert ids(take(store, 4)) == ["a0000", "b0", "b1", "b2"]
    assert take(store, 4) == []
    assert sum(each == "tenant:big" for each in parked(store, *(request.id for request in crowd))) == 399


def test_more_than_asked_for_stay_ready(store: Store):
    put(store, job("a", **ONE), job("b", **ONE), *(job(f"c{n}", concurrency=Limit("wide", 50)) for n in range(8)))
    assert ids(take(store, 3)) == ["a", "c0", "c1"]
    assert ids(take(store, 3)) == ["c2", "c3", "c4"]
    assert ids(take(store, 9)) == ["c5", "c6", "c7"]


def test_a_later_work_does_not_take_the_turn_of_one_that_is_parked(store: Store):
    put(store, job("a", **TWO), job("b", **TWO))
    a, _ = take(store)
    put(store, job("c", worker="elsewhere", **TWO))
    assert take(store, workers=("elsewhere",)) == []
    # As if whoever ended `a` had died before it could wake the next.
    with without_releases(store):
        end(store, a)
    move(store, SECOND)
    put(store, job("d", **TWO))
    assert take(store) == []
    assert (parked(store, "c", "d"), row(store, "c").ready_lane is not None) == ([None, "oven"], True)
    assert ids(take(store, workers=("elsewhere",))) == ["c"]


def test_the_more_urgent_come_first_when_there_is_room(store: Store):
    put(store, job("a", **ONE))
    (a,) = take(store)
    put(store, job("b", **ONE), job("c", priority=5, **ONE))
    assert take(store) == []
    end(store, a)
    assert ids(take(store)) == ["c"]


def test_one_work_is_claimed_by_its_id_only_if_there_is_room(store: Store):
    put(store, job("a", **ONE), job("b", **ONE))
    a = take_one(store, "a")
    assert store.claim_one("b", "node", 7) == []
    assert parked(store, "b") == ["oven"]
    end(store, a)
    assert take_one(store, "b").id == "b"


# -- rates ------------------------------------------------------------------------------------------------------------


def test_a_rate_lets_n_start_and_one_more_whenever_a_token_has_come_back(store: Store):
    put(store, *(job(each, rate=Rate("mail", 2, 10)) for each in "abcde"))
    assert ids(take(store)) == ["a", "b"]
    began = store.clock.now()
    assert wake_at(store, "mail") == store.next_moment() == began + 5 * SECOND
    pass_time(store, 5 * SECOND - 1)
    assert take(store) == []
    pass_time(store, 1)
    assert ids(take(store)) == ["c"]
    pass_time(store, 10 * SECOND)
    assert ids(take(store)) == ["d", "e"]
    assert parked(store, *"de") == [None, None]
    pass_time(store, HOUR)
    assert store.next_moment() is None


def test_ends_give_no_token_back(store: Store):
    put(store, *(job(each, rate=Rate("mail", 1, 60)) for each in "ab"))
    end(store, *take(store))
    assert take(store) == []
    pass_time(store, 60 * SECOND)
    assert ids(take(store)) == ["b"]


def test_a_work_waits_for_both_of_its_limits(store: Store):
    both: dict[str, Any] = {"concurrency": Limit("oven", 1), "rate": Rate("gas", 2, 60)}
    put(store, *(job(each, **both) for each in "abc"))
    (a,) = take(store)
    assert parked(store, *"bc") == ["oven", "oven"]
    end(store, a)
    (b,) = take(store)
    end(store, b)
    assert take(store) == []
    assert parked(store, "c") == ["gas"]
    assert rows_of(store, "permit") == 0
    pass_time(store, 30 * SECOND)
    assert ids(take(store)) == ["c"]


def test_who_waits_for_a_rate_keeps_no_room_from_others(store: Store):
    limits: dict[str, Any] = {"concurrency": Limit("oven", 1)}
    put(store, job("a", **limits), job("spent", rate=Rate("gas", 1, 60)))
    claims = take(store)
    assert ids(claims) == ["a", "spent"]
    put(store, job("b", rate=Rate("gas", 1, 60), **limits), job("c", **limits))
    assert take(store) == []
    end(store, *claims)
    # b was woken, and waits for the rate from now on
    assert ids(take(store)) == ["c"]
    assert parked(store, "b") == ["gas"]


# -- what else may happen to them -------------------------------------------------------------------------------------


def test_a_key_may_come_from_a_prerequisites_output(store: Store):
    put(store, "a", "b")
    requests = {each: job(each, concurrency=TENANT) for each in "cd"}
    enqueue(store, step(requests["c"], after=("a",)), step(requests["d"], after=("b",)))
    succeed(store, "a", "b", output='{"tenant": "x"}')
    assert ids(take(store)) == ["c"]
    assert parked(store, "d") == ["tenant:x"]


def test_a_field_that_no_prerequisite_has_given_fails_the_work_and_what_follows(store: Store):
    put(store, "a")
    enqueue(store, step(job("b", concurrency=TENANT), after=("a",)), step("c", after=("b",)))
    succeed(store, "a")
    assert take(store) == []
    failed = info(store, "b")
    assert (failed.state, state(store, "c"), failed.run_attempt_count) == (State.FAILED, State.FAILED, 0)
    assert failed.error is not None
    assert "'tenant'" in failed.error.message


def test_a_cancelled_parked_work_leaves_no_trace(store: Store):
    put(store, *(job(each, **ONE) for each in "abc"))
    (a,) = take(store)
    store.cancel("b")
    assert (row(store, "b").parked_by, state(store, "b")) == (None, State.CANCELLED)
    end(store, a)
    assert ids(take(store)) == ["c"]


def test_cancelling_a_run_makes_room_and_its_late_end_wakes_the_next(store: Store):
    put(store, *(job(each, **ONE) for each in "ab"))
    (a,) = take(store)
    assert take(store) == []
    store.cancel("a")
    assert end(store, a).stale == {"a"}
    assert rows_of(store, "permit") == 0
    assert ids(take(store)) == ["b"]


def test_a_dead_node_pins_no_room(store: Store):
    register(store, "dead", lease=SECOND)
    put(store, *(job(each, **ONE) for each in "ab"))
    (a,) = take(store, node="dead")
    start(store, a)
    assert take(store) == []
    move(store, 2 * SECOND)
    assert store.heal(store.clock.now()) is not None
    assert ids(take(store)) == ["a"]
    assert end(store, a).stale == {"a"}
    # What the dead one says late takes nothing from who runs it now.
    assert rows_of(store, "permit") == 1
    assert take(store) == []


def test_what_was_put_back_makes_room(store: Store):
    register(store)
    put(store, job("a", **ONE), job("b", priority=1, **ONE))
    (b,) = take(store)
    assert b.id == "b"
    assert store.put_back("node", ["b"]).accepted == {"b"}
    assert rows_of(store, "permit") == 0
    assert ids(take(store)) == ["b"]


def test_an_updated_parked_work_goes_by_its_new_limit(store: Store):
    put(store, *(job(each, **ONE) for each in "abc"))
    (a,) = take(store)
    assert take(store) == []
    store.update(job("b", concurrency=Limit("free", 1)), QUEUE)
    store.update(job("c"), QUEUE)
    assert ids(take(store)) == ["b"]
    assert row(store, "c").ready_lane == lane_of(QUEUE, WORKER)
    end(store, a)


def test_an_update_during_a_run_changes_nothing_about_its_room(store: Store):
    put(store, *(job(each, **ONE) for each in "ab"))
    (a,) = take(store)
    assert take(store) == []
    store.update(job("a"), QUEUE)
    end(store, a, ending=Ending.STOPPED, reason=StopReason.DEVICE_STATE)
    assert rows_of(store, "permit") == 0
    assert ids(take(store)) == ["b"]


def test_a_permit_that_nobody_took_back_counts_for_no_later_run_of_its_work(store: Store):
    put(store, job("a", **ONE))
    (a,) = take(store)
    store.update(job("a"), QUEUE)
    with without_releases(store):
        end(store, a, ending=Ending.STOPPED, reason=StopReason.DEVICE_STATE)
    take_one(store, "a")
    assert rows_of(store, "permit") == 1
    put(store, job("b", **ONE))
    assert ids(take(store)) == ["b"]


def test_a_parked_work_that_is_paused_waits_for_the_resumption_first(store: Store):
    red = PauseTarget(PauseKind.TAG, "red")
    put(store, job("a", **ONE), job("b", tags={"red"}, **ONE), job("c", **ONE))
    (a,) = take(store)
    assert take(store) == []
    pausing.pause(store, red)
    assert parked(store, "b", "c") == [None, "oven"]
    end(store, a)
    (c,) = take(store)
    assert c.id == "c"
    pausing.resume(store, red)
    assert take(store) == []
    assert parked(store, "b") == ["oven"]
    end(store, c)
    assert ids(take(store)) == ["b"]


def test_a_parked_work_expires(store: Store):
    put(store, job("a", **ONE), job("b", expires=60, **ONE))
    take(store)
    move(store, 61 * SECOND)
    assert store.expire() == ["b"]
    assert parked(store, "b") == [None]


def test_a_replaced_run_makes_room_and_its_permit_goes_with_its_end(store: Store):
    put_named(store, "import", REPLACE, job("a", **ONE))
    (a,) = take(store)
    put_named(store, "import", REPLACE, job("b", **ONE))
    assert ids(take(store)) == ["b"]
    assert end(store, a).stale == {"a"}
    assert rows_of(store, "permit") == 1


def test_a_retried_work_waits_as_its_first_run_did(store: Store):
    put(store, *(job(each, **ONE) for each in "ab"))
    (a,) = take(store)
    end(store, a, ending=Ending.FAILED)
    store.retry("a", "copy")
    (b,) = take(store)
    assert (b.id, parked(store, "copy")) == ("b", ["oven"])
    end(store, b)
    assert ids(take(store)) == ["copy"]


# -- what upkeep sees to ----------------------------------------------------------------------------------------------


def test_a_lost_wake_up_is_made_up_for(store: Store):
    put(store, *(job(each, **ONE) for each in "abc"))
    (a,) = take(store)
    with without_releases(store):
        end(store, a)
    assert take(store) == []
    assert store.next_moment() == store.clock.now() + limiting.RECHECK
    pass_time(store, limiting.RECHECK)
    assert ids(take(store)) == ["b"]
    assert rows_of(store, "permit") == 1
    assert wake_at(store, "oven") == store.clock.now() + limiting.RECHECK


def test_a_key_under_which_nothing_waits_any_more_is_not_looked_at_again(store: Store):
    put(store, *(job(each, **ONE) for each in "ab"))
    (a,) = take(store)
    end(store, a)
    end(store, *take(store))
    pass_time(store, limiting.RECHECK)
    assert (wake_at(store, "oven"), store.next_moment()) == (None, None)


def test_unused_keys_are_forgotten_and_used_ones_kept(store: Store):
    put(store, job("a", **TWO), job("b", concurrency=Limit("done", 1)), job("c", rate=Rate("spent", 1, 60)))
    claims = {claim.id: claim for claim in take(store)}
    end(store, claims["b"], claims["c"])
    assert store.forget_limits("") == ""
    assert rows_of(store, "limit") == 2
    move(store, 61 * SECOND)
    end(store, claims["a"])
    store.forget_limits("")
    assert rows_of(store, "limit") == 0
    put(store, job("d", **TWO))
    assert ids(take(store)) == ["d"]


def test_forgetting_goes_on_where_it_ended(store: Store):
    put(store, *(job(input={"tenant": f"t{n}"}, concurrency=TENANT) for n in range(5)))
    end(store, *take(store))
    for after, following in (("", "tenant:t2"), ("tenant:t2", "")):
        with store.database.transaction() as connection:
            found, keys = limiting.keys_beyond(connection, after, 3)
            limiting.forget_unused(connection, keys, store.clock.now())
        assert found == following
    assert rows_of(store, "limit") == 0
