"""Each policy against what carries the name already (WorkManager semantics: ExistingWorkPolicy)."""

from __future__ import annotations

import pytest

from celery_workmanager.outcome import Ending
from celery_workmanager.planning import Step
from celery_workmanager.policies import ExistingWorkPolicy
from celery_workmanager.query import WorkQuery
from celery_workmanager.store import Store
from celery_workmanager.work import State, StopReason
from tests.stores import (
    APPEND,
    APPEND_OR_REPLACE,
    KEEP,
    REPLACE,
    end,
    enqueue,
    fail,
    info,
    job,
    put,
    put_chain,
    put_named,
    row,
    rows_of,
    start,
    state,
    states,
    step,
    succeed,
    take_one,
)

ALL = list(ExistingWorkPolicy)


def named(store: Store) -> list[str]:
    return [each.id for each in store.work_infos(WorkQuery.from_unique_names("order"))]


def put_behind(store: Store, child: str, *parents: str) -> None:
    """A work outside the name that depends on works inside it, as ``WorkContinuation.combine`` makes them."""
    enqueue(store, *(step(each) for each in parents), step(child, after=parents))


@pytest.mark.parametrize("policy", ALL)
def test_a_free_name_takes_the_work_whatever_the_policy(store: Store, policy: ExistingWorkPolicy):
    assert put_named(store, "order", policy, "a", "b").skipped == ()
    assert states(store) == {"a": "ENQUEUED", "b": "ENQUEUED"}
    assert named(store) == ["a", "b"]


# -- KEEP ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("running", [False, True])
def test_keep_stores_nothing_while_a_work_of_the_name_is_under_way(store: Store, running: bool):
    put_named(store, "order", KEEP, "old")
    if running:
        start(store, take_one(store, "old"))
    before = row(store, "old")
    inserted = put_named(store, "order", KEEP, "new")
    assert (inserted.works, inserted.skipped) == ((), ("new",))
    assert list(states(store)) == ["old"]
    assert row(store, "old") == before


def test_keep_swallows_the_rest_of_its_chain(store: Store):
    put_named(store, "order", KEEP, "old")
    chain = [Step((job("b"),), name="order", policy=KEEP), Step((job("c"),), ("b",), "order", KEEP)]
    assert enqueue(store, *chain).skipped == ("b", "c")
    assert list(states(store)) == ["old"]


@pytest.mark.parametrize("finish", [succeed, fail, lambda store, each: store.cancel(each)])
def test_keep_replaces_what_has_finished(store: Store, finish):
    put_named(store, "order", KEEP, "old")
    finish(store, "old")
    put_named(store, "order", KEEP, "new")
    assert states(store) == {"new": "ENQUEUED"}
    assert named(store) == ["new"]


def test_keep_replaces_a_name_whose_works_only_wait_for_others(store: Store):
    put(store, "foreign")
    enqueue(store, step("foreign"), Step((job("old"),), ("foreign",), "order", KEEP))
    assert states(store) == {"foreign": "ENQUEUED", "old": "BLOCKED"}
    put_named(store, "order", KEEP, "new")
    assert states(store) == {"foreign": "ENQUEUED", "new": "ENQUEUED"}
    succeed(store, "foreign")


# -- REPLACE -------------------------------------------------------------------------------------------------


def test_replace_deletes_every_work_of_the_name_with_all_that_belongs_to_it(store: Store):
    put_named(store, "order", KEEP, job("done", tags={"x"}))
    succeed(store, "done")
    put_named(store, "order", APPEND, job("old", tags={"x"}))
    put_named(store, "order", REPLACE, "new")
    assert states(store) == {"new": "ENQUEUED"}
    assert (rows_of(store, "edge"), rows_of(store, "tag"), rows_of(store, "member")) == (0, 0, 1)


def test_replace_cancels_foreign_dependents_before_it_deletes(store: Store):
    put_named(store, "order", KEEP, "old")
    put_behind(store, "foreign", "old")
    put_behind(store, "further", "foreign")
    put_named(store, "order", REPLACE, "new")
    assert states(store) == {"foreign": "CANCELLED", "further": "CANCELLED", "new": "ENQUEUED"}
    assert info(store, "foreign").prerequisites == ()
    assert info(store, "further").prerequisites == ("foreign",)


def test_replace_leaves_dependents_of_a_finished_work_alone(store: Store):
    put_named(store, "order", KEEP, "old")
    put(store, "other")
    enqueue(store, step("old"), step("other"), step("foreign", after=("old", "other")))
    succeed(store, "old")
    put_named(store, "order", REPLACE, "new")
    assert states(store) == {"foreign": "BLOCKED", "new": "ENQUEUED", "other": "ENQUEUED"}
    succeed(store, "other")
    assert state(store, "foreign") is State.ENQUEUED


def test_the_run_of_a_replaced_work_has_lost_it(store: Store):
    put_named(store, "order", KEEP, "old")
    claim = take_one(store, "old")
    start(store, claim)
    put_named(store, "order", REPLACE, "new")
    assert store.owned("node") == {}
    assert end(store, claim).stale == {"old"}
    assert states(store) == {"new": "ENQUEUED"}


def test_replace_by_the_same_request_starts_it_afresh(store: Store):
    put_named(store, "order", KEEP, "a")
    succeed(store, "a")
    put_named(store, "order", REPLACE, "a")
    assert states(store) == {"a": "ENQUEUED"}
    assert info(store, "a").runs == 0


# -- APPEND --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [APPEND, APPEND_OR_REPLACE])
def test_append_waits_for_every_leaf_of_the_name(store: Store, policy: ExistingWorkPolicy):
    first = Step((job("a"),), name="order", policy=KEEP)
    enqueue(store, first, Step((job("b"), job("c")), ("a",), "order", KEEP))
    put_named(store, "order", policy, "d", "e")
    assert info(store, "d").prerequisites == info(store, "e").prerequisites == ("b", "c")
    assert state(store, "d") is State.BLOCKED
    succeed(store, "a", "b", "c")
    assert (state(store, "d"), state(store, "e")) == (State.ENQUEUED, State.ENQUEUED)


@pytest.mark.parametrize("policy", [APPEND, APPEND_OR_REPLACE])
def test_append_to_what_has_succeeded_starts_at_once_with_its_output(store: Store, policy: ExistingWorkPolicy):
    put_named(store, "order", KEEP, "a")
    succeed(store, "a", output='{"n": 1}')
    put_named(store, "order", policy, "b")
    assert state(store, "b") is State.ENQUEUED
    assert take_one(store, "b").inputs == ["{}", '{"n": 1}']


@pytest.mark.parametrize("policy", [APPEND, APPEND_OR_REPLACE])
def test_append_to_a_work_in_its_run_waits_for_it(store: Store, policy: ExistingWorkPolicy):
    put_named(store, "order", KEEP, "a")
    claim = take_one(store, "a")
    start(store, claim)
    put_named(store, "order", policy, "b")
    assert state(store, "b") is State.BLOCKED
    assert end(store, claim).unblocked == 1
    assert state(store, "b") is State.ENQUEUED


def test_append_inherits_a_failure_and_that_beats_a_cancellation(store: Store):
    put_named(store, "order", KEEP, "a", "b", "c")
    fail(store, "a")
    store.cancel("b")
    put_named(store, "order", APPEND, "d")
    assert state(store, "d") is State.FAILED
    assert info(store, "d").enqueued_at is None
    assert row(store, "d").prune_at is not None


def test_append_inherits_a_cancellation(store: Store):
    put_named(store, "order", KEEP, "a", "b")
    store.cancel("b")
    put_named(store, "order", APPEND, "c")
    assert state(store, "c") is State.CANCELLED


def test_append_has_no_leaf_to_wait_for_when_every_work_has_a_foreign_dependent(store: Store):
    put_named(store, "order", KEEP, "a")
    put_behind(store, "foreign", "a")
    put_named(store, "order", APPEND, "b")
    assert state(store, "b") is State.ENQUEUED
    assert info(store, "b").prerequisites == ()


@pytest.mark.parametrize("finish", [fail, lambda store, each: store.cancel(each)])
def test_append_or_replace_starts_afresh_after_a_broken_leaf(store: Store, finish):
    put_named(store, "order", KEEP, "a", "b")
    put_behind(store, "foreign", "b")
    put_named(store, "order", APPEND, "c")
    claim = take_one(store, "b")
    start(store, claim)
    finish(store, "a")
    put_named(store, "order", APPEND_OR_REPLACE, "d")
    assert states(store) == {"d": "ENQUEUED", "foreign": "CANCELLED"}
    assert end(store, claim).stale == {"b"}


def test_append_or_replace_tells_why_a_run_was_stopped(store: Store):
    """Cancelled before it is deleted: a dependent outside the name keeps the reason."""
    put_named(store, "order", KEEP, "a", "b")
    fail(store, "a")
    put_behind(store, "foreign", "b")
    put_named(store, "order", KEEP, "ignored")
    put_named(store, "order", REPLACE, "d")
    assert info(store, "foreign").stop_reason is StopReason.NOT_STOPPED


def test_a_chain_may_append_and_go_on(store: Store):
    put_named(store, "order", KEEP, "a")
    enqueue(
        store,
        Step((job("b"),), name="order", policy=APPEND),
        Step((job("c"),), ("b",), "order", APPEND),
    )
    put_named(store, "order", APPEND, "d")
    assert {each: info(store, each).prerequisites for each in "bcd"} == {"b": ("a",), "c": ("b",), "d": ("c",)}
    succeed(store, "a", "b", "c", "d")
    assert set(states(store).values()) == {"SUCCEEDED"}


def test_one_enqueue_may_use_several_names(store: Store):
    put_named(store, "one", KEEP, "a")
    enqueue(
        store,
        Step((job("b"),), name="one", policy=APPEND),
        Step((job("c"),), name="two", policy=REPLACE),
        step("join", after=("b", "c")),
    )
    assert states(store) == {"a": "ENQUEUED", "b": "BLOCKED", "c": "ENQUEUED", "join": "BLOCKED"}
    assert end(store, take_one(store, "a"), ending=Ending.FAILED).accepted
    assert states(store) == {"a": "FAILED", "b": "FAILED", "c": "ENQUEUED", "join": "FAILED"}


def test_what_one_name_appends_to_and_another_one_replaces_is_cancelled(store: Store):
    """Nothing is left waiting for what the same call has cancelled."""
    put_named(store, "two", KEEP, "t")
    enqueue(store, Step((job("a"),), ("t",), "one"))
    enqueue(
        store,
        Step((job("b"),), name="one", policy=APPEND),
        Step((job("c"),), name="two", policy=REPLACE),
        step("join", after=("b", "c")),
    )
    assert states(store) == {"a": "CANCELLED", "b": "CANCELLED", "c": "ENQUEUED", "join": "CANCELLED"}


def test_what_follows_a_work_that_another_name_of_the_call_deletes_is_cancelled(store: Store):
    put_named(store, "one", KEEP, "a")
    put_named(store, "two", APPEND, "a")
    enqueue(store, Step((job("b"),), name="one", policy=APPEND), Step((job("c"),), name="two", policy=REPLACE))
    assert states(store) == {"b": "CANCELLED", "c": "ENQUEUED"}
    assert (info(store, "b").prerequisites, rows_of(store, "edge")) == ((), 0)


@pytest.mark.parametrize("first", [True, False])
def test_a_work_that_is_replaced_by_its_own_id_has_the_children_of_the_same_call(store: Store, first: bool):
    put_named(store, "one", KEEP, "a")
    put_named(store, "two", APPEND, "a")
    again = [Step((job("a"),), name="two", policy=REPLACE), Step((job("c"),), ("a",), "two")]
    other = [Step((job("b"),), name="one", policy=APPEND)]
    enqueue(store, *(again + other if first else other + again))
    assert states(store) == {"a": "ENQUEUED", "b": "CANCELLED", "c": "BLOCKED"}
    assert (info(store, "b").prerequisites, info(store, "c").prerequisites) == ((), ("a",))


def test_names_stay_when_their_works_are_gone(store: Store):
    """The row of a name is where enqueues meet; it is never deleted under their feet."""
    put_named(store, "order", KEEP, "a")
    succeed(store, "a")
    store.prune(only_expired=False)
    assert (rows_of(store, "work"), rows_of(store, "member"), rows_of(store, "name")) == (0, 0, 1)


def test_a_chain_and_its_name_are_cancelled_with_everything_below(store: Store):
    put_chain(store, "x", "y")
    put_named(store, "order", KEEP, "a")
    put_behind(store, "foreign", "a")
    assert store.cancel_matching(unique_name="order") == ["a", "foreign"]
    assert states(store) == {"a": "CANCELLED", "foreign": "CANCELLED", "x": "ENQUEUED", "y": "BLOCKED"}
