"""Cancelling four ways, updating in place, retrying what has finished."""

from __future__ import annotations

import pytest

from celery_workmanager.data import Data
from celery_workmanager.errors import InvalidRequest, UnsupportedOperation, WorkNotFound
from celery_workmanager.outcome import Ending
from celery_workmanager.policies import UpdateResult
from celery_workmanager.store import Store
from celery_workmanager.timing import SECOND
from celery_workmanager.work import State, StopReason
from tests.stores import (
    HOUR,
    KEEP,
    START,
    end,
    enqueue,
    fail,
    info,
    job,
    move,
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
    take,
    take_one,
)


def test_cancel_by_id_takes_along_all_downstream_and_no_sibling(store: Store):
    put_chain(store, ["a", "b"], "join", "after")
    assert store.cancel("a") == ["a", "after", "join"]
    assert states(store) == {"a": "CANCELLED", "b": "ENQUEUED", "join": "CANCELLED", "after": "CANCELLED"}
    assert info(store, "a").output_data == Data.EMPTY
    assert store.cancel("a") == []


def test_cancel_of_a_finished_work_cancels_what_it_has_unblocked(store: Store):
    put_chain(store, "a", "b", "c")
    succeed(store, "a")
    before = row(store, "a")
    assert store.cancel("a") == ["b", "c"]
    assert row(store, "a") == before


def test_cancel_of_nobody_is_no_error(store: Store):
    assert store.cancel("nobody") == []


def test_a_run_that_is_cancelled_says_so_and_loses_its_work(store: Store):
    put(store, "running", "claimed", "waiting")
    running, claimed = take_one(store, "running"), take_one(store, "claimed")
    start(store, running)
    store.write_progress([(running, '{"percent": 10}')])
    assert store.cancel_all() == ["claimed", "running", "waiting"]
    reasons = {each: info(store, each).stop_reason for each in ("running", "claimed", "waiting")}
    assert reasons == {
        "running": StopReason.CANCELLED_BY_APP,
        "claimed": StopReason.NOT_STOPPED,
        "waiting": StopReason.NOT_STOPPED,
    }
    assert info(store, "running").progress == Data(percent=10)
    assert store.owned("node") == {}
    assert end(store, running, claimed).stale == {"running", "claimed"}


def test_a_running_dependent_of_a_finished_work_is_cancelled_as_running(store: Store):
    put_chain(store, "a", "b")
    succeed(store, "a")
    start(store, take_one(store, "b"))
    store.cancel("a")
    assert info(store, "b").stop_reason is StopReason.CANCELLED_BY_APP


def test_cancel_by_tag_finds_given_tags_and_the_workers_name(store: Store):
    put(store, job("a", tags={"x"}), job("b", worker="shop.sell"), job("c", worker="shop.sell", tags={"x"}))
    put_chain(store, "d", "e")
    assert store.cancel_matching(tag="x") == ["a", "c"]
    assert store.cancel_matching(tag="x") == []
    assert store.cancel_matching(tag="shop.sell") == ["b"]
    assert store.cancel_matching(tag="shop.bake") == ["d", "e"]


def test_cancel_by_tag_leaves_what_has_finished_and_what_it_unblocked(store: Store):
    enqueue(store, step(job("a", tags={"x"})), step("b", after=("a",)))
    succeed(store, "a")
    assert store.cancel_matching(tag="x") == []
    assert states(store) == {"a": "SUCCEEDED", "b": "ENQUEUED"}


def test_cancel_of_a_name_takes_along_dependents_outside_it(store: Store):
    put_named(store, "order", KEEP, "a")
    put_named(store, "other", KEEP, "b")
    enqueue(store, step("a"), step("c", after=("a",)))
    assert store.cancel_matching(unique_name="order") == ["a", "c"]
    assert state(store, "b") is State.ENQUEUED


def test_cancel_all_goes_on_in_chunks_and_remembers_when(store: Store):
    put(store, *(job() for _ in range(1203)))
    move(store, SECOND)
    assert len(store.cancel_all()) == 1203
    assert set(states(store).values()) == {"CANCELLED"}
    assert store.last_cancel_all() == START + SECOND
    move(store, SECOND)
    assert store.cancel_all() == []
    assert store.last_cancel_all() == START + 2 * SECOND


@pytest.mark.parametrize("reason", [StopReason.USER, StopReason.CANCELLED_BY_APP])
def test_revoking_cancels_the_unfinished_with_a_reason_and_passes_over_what_has_finished(store: Store, reason):
    put_chain(store, "done", "unblocked")
    succeed(store, "done")
    put_chain(store, "running", "after")
    start(store, take_one(store, "running"))
    assert store.revoke(["running", "done", "nobody"], reason) == ["after", "running"]
    assert states(store) == {
        "done": "SUCCEEDED", "unblocked": "ENQUEUED", "running": "CANCELLED", "after": "CANCELLED"
    }  # fmt: skip
    assert info(store, "running").stop_reason is reason
    assert info(store, "after").stop_reason is StopReason.NOT_STOPPED
    assert store.revoke([], reason) == []


def test_cancel_by_tag_gives_running_works_the_reason(store: Store):
    put(store, job("a", tags={"x"}))
    start(store, take_one(store, "a"))
    store.cancel_matching(tag="x", reason=StopReason.USER)
    assert info(store, "a").stop_reason is StopReason.USER


# -- update --------------------------------------------------------------------------------------------------


def test_an_update_replaces_the_specification_and_keeps_the_rest(store: Store):
    put_named(store, "order", KEEP, job("a", tags={"old"}, input={"n": 1}, initial_delay=10))
    move(store, HOUR)
    end(store, take_one(store, "a"), ending=Ending.RETRY, after=0)
    before = info(store, "a")
    changed = job("a", worker="shop.sell", tags={"new"}, input={"n": 2}, queue="ovens", priority=9, max_attempts=3)
    assert store.update(changed, "ovens") is UpdateResult.APPLIED_IMMEDIATELY
    after = info(store, "a")
    kept = ("id", "state", "run_attempt_count", "runs", "unique_names", "prerequisites", "interruptions")
    assert {each: getattr(after, each) for each in kept} == {each: getattr(before, each) for each in kept}
    assert row(store, "a").enqueued_at == START + HOUR
    assert (after.generation, after.worker_name, after.queue, after.priority) == (1, "shop.sell", "ovens", 9)
    assert after.input_data == Data(n=2)
    assert after.tags == {"shop.sell", "new"}
    assert (after.initial_delay.total_seconds(), after.output_data, after.progress) == (0, Data.EMPTY, Data.EMPTY)
    assert after.version > before.version
    move(store, HOUR)
    (claim,) = take(store, workers=("shop.sell",), queues=("ovens",))
    assert (claim.generation, claim.options["max_attempts"]) == (1, 3)


def test_an_update_moves_the_time_of_a_waiting_work(store: Store):
    put(store, job("a", initial_delay=3600))
    move(store, 60 * SECOND)
    store.update(job("a", initial_delay=120), "celery")
    assert row(store, "a").due_at == START + 120 * SECOND
    store.update(job("a", initial_delay=10), "celery")
    assert (row(store, "a").due_at, row(store, "a").run_at) == (None, START + 10 * SECOND)
    assert [claim.id for claim in take(store)] == ["a"]


def test_an_update_makes_a_ready_work_wait(store: Store):
    put(store, "a")
    store.update(job("a", initial_delay=60), "celery")
    assert take(store) == []
    move(store, 60 * SECOND)
    assert [claim.id for claim in take(store)] == ["a"]


def test_an_update_of_a_blocked_work_leaves_it_blocked(store: Store):
    put_chain(store, "a", "b")
    assert store.update(job("b", worker="shop.sell", initial_delay=60), "celery") is UpdateResult.APPLIED_IMMEDIATELY
    assert (state(store, "b"), row(store, "b").waits_for, row(store, "b").ready_lane) == (State.BLOCKED, 1, None)
    succeed(store, "a")
    assert row(store, "b").due_at == START + 60 * SECOND


@pytest.mark.parametrize("started", [False, True])
def test_an_update_during_a_run_is_for_the_next_one(store: Store, started: bool):
    put(store, job("a", input={"n": 1}))
    claim = take_one(store, "a")
    if started:
        start(store, claim)
        store.write_progress([(claim, '{"percent": 10}')])
    assert store.update(job("a", input={"n": 2}), "celery") is UpdateResult.APPLIED_FOR_NEXT_RUN
    assert store.owned("node") == {"a": claim.token}
    assert take(store) == []
    assert info(store, "a").progress == (Data(percent=10) if started else Data.EMPTY)
    end(store, claim, ending=Ending.RETRY, after=0)
    (again,) = take(store)
    assert (again.inputs, again.generation) == (['{"n":2}'], 1)


def test_an_update_of_a_finished_work_is_not_applied(store: Store):
    put(store, "a")
    succeed(store, "a")
    before = row(store, "a")
    assert store.update(job("a", priority=9), "celery") is UpdateResult.NOT_APPLIED
    assert row(store, "a") == before


def test_an_update_of_nobody_is_an_error(store: Store):
    with pytest.raises(WorkNotFound):
        store.update(job("nobody"), "celery")


# -- retry ---------------------------------------------------------------------------------------------------


def test_a_retry_is_a_new_work_that_remembers_the_old_one(store: Store):
    put_named(store, "order", KEEP, job("a", tags={"x"}, input={"n": 1}, initial_delay=60, expires=7200))
    put_chain(store, "p", "q")
    move(store, HOUR)
    fail(store, "a")
    before = row(store, "a")
    store.retry("a", "again")
    assert row(store, "a") == before
    found = info(store, "again")
    assert (found.state, found.retry_of) == (State.ENQUEUED, "a")
    assert found.tags == {"shop.bake", "x"}
    assert (found.unique_names, found.input_data) == (("order",), Data(n=1))
    assert (found.run_attempt_count, found.runs, found.error, found.finished_at) == (0, 0, None, None)
    assert "again" in {claim.id for claim in take(store)}


def test_a_retry_gets_the_outputs_of_the_same_prerequisites(store: Store):
    put_chain(store, ["x", "a"], "b")
    succeed(store, "x", output='{"from": "x"}')
    succeed(store, "a", output='{"from": "a"}')
    fail(store, "b")
    store.retry("b", "again")
    assert take_one(store, "again").inputs == ["{}", '{"from": "x"}', '{"from": "a"}']


def test_only_a_finished_work_whose_prerequisites_succeeded_is_retried(store: Store):
    put_chain(store, "a", "b")
    with pytest.raises(WorkNotFound):
        store.retry("nobody", "again")
    with pytest.raises(InvalidRequest):
        store.retry("a", "again")
    fail(store, "a")
    with pytest.raises(UnsupportedOperation):
        store.retry("b", "again")
    assert set(states(store)) == {"a", "b"}
    assert rows_of(store, "edge") == 1
