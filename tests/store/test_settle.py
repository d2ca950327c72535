"""Ends of runs: what each verdict writes, what becomes of dependents, and whose verdict counts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from celery_workmanager.data import Data
from celery_workmanager.outcome import Ending
from celery_workmanager.policies import BackoffPolicy, OutOfQuotaPolicy
from celery_workmanager.store import Store
from celery_workmanager.timing import SECOND
from celery_workmanager.work import State, StopReason, WorkError
from tests.stores import (
    HOUR,
    START,
    end,
    enqueue,
    fail,
    info,
    job,
    make_store,
    move,
    put,
    put_chain,
    register,
    row,
    start,
    state,
    states,
    step,
    succeed,
    take,
    take_one,
    users_engine,
    verdicts,
)

ERROR = WorkError("ValueError", "burnt").to_json()


def test_a_success_keeps_the_output_and_drops_the_progress(store: Store):
    put(store, "a")
    claim = take_one(store, "a")
    start(store, claim)
    store.write_progress([(claim, '{"percent": 10}')])
    move(store, SECOND)
    assert end(store, claim, output='{"loaves": 3}').accepted == {"a"}
    found = info(store, "a")
    assert (found.state, found.output_data, found.progress) == (State.SUCCEEDED, Data(loaves=3), Data.EMPTY)
    assert (found.run_attempt_count, found.runs, found.node) == (1, 1, None)
    assert found.finished_at is not None
    assert found.started_at is not None
    assert (found.finished_at - found.started_at).total_seconds() == 1
    assert store.owned("node") == {}


def test_a_short_run_is_written_once_with_its_start(store: Store):
    put(store, "a")
    end(store, take_one(store, "a"))
    found = info(store, "a")
    assert (found.state, found.run_attempt_count, found.runs) == (State.SUCCEEDED, 1, 1)
    assert found.started_at == found.finished_at


def test_a_run_that_never_began_counts_for_nothing(store: Store):
    """A merge of inputs that fails, for one: the work is FAILED and has not run."""
    put(store, "a")
    end(store, take_one(store, "a"), ending=Ending.FAILED, error=ERROR, started_at=None)
    found = info(store, "a")
    assert (found.state, found.run_attempt_count, found.runs, found.started_at) == (State.FAILED, 0, 0, None)


def test_a_failure_that_was_returned_keeps_output_and_drops_progress(store: Store):
    put(store, "a")
    claim = take_one(store, "a")
    start(store, claim)
    store.write_progress([(claim, '{"percent": 10}')])
    end(store, claim, ending=Ending.FAILED, output='{"why": "no flour"}')
    assert info(store, "a").output_data == Data(why="no flour")
    assert info(store, "a").progress == Data.EMPTY


def test_a_failure_that_was_thrown_keeps_error_and_progress(store: Store):
    put(store, "a")
    claim = take_one(store, "a")
    start(store, claim)
    store.write_progress([(claim, '{"percent": 10}')])
    end(store, claim, ending=Ending.FAILED, error=ERROR)
    assert str(info(store, "a").error) == "ValueError: burnt"
    assert info(store, "a").progress == Data(percent=10)


def test_a_retry_waits_for_its_backoff_from_now(store: Store):
    put(store, job("a", backoff_delay=10, backoff_policy=BackoffPolicy.LINEAR, initial_delay=60))
    move(store, HOUR)
    for attempt in (1, 2, 3):
        assert end(store, take_one(store, "a"), ending=Ending.RETRY).accepted == {"a"}
        found = row(store, "a")
        assert (found.state, found.run_attempt_count) == (State.ENQUEUED, attempt)
        assert found.due_at == found.run_at == store.clock.now() + attempt * 10 * SECOND
        assert found.enqueued_at == store.clock.now()
        assert take(store) == []
        move(store, attempt * 10 * SECOND)
    assert [claim.id for claim in take(store)] == ["a"]


def test_a_retry_may_say_when(store: Store):
    put(store, "a", "b")
    end(store, take_one(store, "a"), ending=Ending.RETRY, after=5.5)
    end(store, take_one(store, "b"), ending=Ending.RETRY, after=0)
    assert row(store, "a").due_at == START + 5_500_000
    assert [claim.id for claim in take(store)] == ["b"]


def test_a_retry_forgets_progress_and_privilege(store: Store):
    put(store, job("a", expedited=OutOfQuotaPolicy.RUN_AS_NON_EXPEDITED_WORK_REQUEST, priority=5))
    claim = take_one(store, "a")
    start(store, claim)
    store.write_progress([(claim, '{"percent": 10}')])
    for _ in range(2):
        end(store, claim, ending=Ending.RETRY, after=0)
        assert row(store, "a").urgency == 255 - 5
        claim = take_one(store, "a")
    assert info(store, "a").progress == Data.EMPTY


def test_attempts_may_be_exhausted(store: Store):
    put(store, job("a", max_attempts=2))
    put_chain_after(store, "a", "b")
    end(store, take_one(store, "a"), ending=Ending.RETRY, after=0)
    assert state(store, "a") is State.ENQUEUED
    end(store, take_one(store, "a"), ending=Ending.RETRY, after=0)
    assert states(store) == {"a": "FAILED", "b": "FAILED"}
    assert info(store, "a").error is not None


def put_chain_after(store: Store, parent: str, child: str) -> None:
    enqueue(store, step(parent), step(child, after=(parent,)))


def test_a_stop_keeps_everything_and_gives_the_reason(store: Store):
    put(store, "a")
    claim = take_one(store, "a")
    start(store, claim)
    store.write_progress([(claim, '{"percent": 10}')])
    move(store, SECOND)
    end(store, claim, ending=Ending.STOPPED, reason=StopReason.SYSTEM_PROCESSING)
    found = info(store, "a")
    assert (found.state, found.stop_reason) == (State.ENQUEUED, StopReason.SYSTEM_PROCESSING)
    assert (found.runs, found.run_attempt_count, found.progress) == (1, 0, Data(percent=10))
    assert row(store, "a").enqueued_at == START
    start(store, take_one(store, "a"))
    assert info(store, "a").stop_reason is StopReason.NOT_STOPPED


def test_a_stop_is_an_attempt_on_android(store_address: str):
    store = make_store(store_address, profile="android")
    put(store, job("a", backoff_delay=10))
    claim = take_one(store, "a")
    start(store, claim)
    end(store, claim, ending=Ending.STOPPED, reason=StopReason.DEVICE_STATE)
    assert info(store, "a").run_attempt_count == 1
    assert row(store, "a").run_at == START + 10 * SECOND
    store.close()


def test_a_work_that_is_given_back_is_as_if_it_had_not_been_claimed(store: Store):
    put(store, "a")
    before = row(store, "a")._asdict()
    end(store, take_one(store, "a"), ending=Ending.GIVEN_BACK)
    assert row(store, "a")._asdict() == before | {"version": before["version"] + 1}
    assert [claim.id for claim in take(store)] == ["a"]


@pytest.mark.parametrize("was", [Ending.STOPPED, Ending.RETRY, Ending.LOST])
def test_a_work_that_is_given_back_keeps_what_its_last_run_has_left(store: Store, was: Ending):
    put(store, "a")
    how: dict[Ending, dict[str, Any]] = {
        Ending.STOPPED: {"reason": StopReason.DEVICE_STATE},
        Ending.RETRY: {"error": "{}", "after": 0.0},
    }
    end(store, take_one(store, "a"), ending=was, **how.get(was, {}))
    before = row(store, "a")._asdict()
    end(store, take_one(store, "a"), ending=Ending.GIVEN_BACK)
    assert row(store, "a")._asdict() == before | {"version": before["version"] + 1}
    assert len(store.stops("a")) == (was is not Ending.RETRY)


def test_what_a_lost_node_has_not_begun_keeps_what_its_last_run_has_left(store: Store):
    put(store, "a")
    register(store, lease=SECOND)
    end(store, take_one(store, "a"), ending=Ending.STOPPED, reason=StopReason.DEVICE_STATE)
    take_one(store, "a")
    move(store, 2 * SECOND)
    assert store.heal(store.clock.now()) is not None
    assert info(store, "a").stop_reason is StopReason.DEVICE_STATE


def test_a_lost_run_is_an_interruption_and_no_attempt(store: Store):
    put(store, "a")
    claim = take_one(store, "a")
    start(store, claim)
    end(store, claim, ending=Ending.LOST)
    found = info(store, "a")
    assert (found.state, found.stop_reason) == (State.ENQUEUED, StopReason.UNKNOWN)
    assert (found.interruptions, found.run_attempt_count, found.runs) == (1, 0, 1)


def test_a_poison_pill_fails_with_all_that_depends_on_it(store_address: str):
    store = make_store(store_address, max_interruptions=3)
    put_chain(store, "a", "b")
    for _ in range(3):
        assert state(store, "a") is State.ENQUEUED
        end(store, take_one(store, "a"), ending=Ending.LOST)
    assert states(store) == {"a": "FAILED", "b": "FAILED"}
    assert "WorkerLost" in (info(store, "a").error or WorkError("", "")).exc_type
    assert info(store, "a").interruptions == 3
    store.close()


# -- dependents ----------------------------------------------------------------------------------------------


def test_a_child_runs_when_its_last_parent_has_succeeded(store: Store):
    put_chain(store, ["a", "b", "c"], "join")
    settled = end(store, take_one(store, "a"), take_one(store, "b"))
    assert (settled.accepted, settled.unblocked) == ({"a", "b"}, 0)
    assert row(store, "join").waits_for == 1
    assert end(store, take_one(store, "c")).unblocked == 1
    assert row(store, "join").waits_for is None
    assert state(store, "join") is State.ENQUEUED


def test_parents_that_end_in_one_batch_unblock_their_child_once(store: Store):
    put_chain(store, [f"p{n:03}" for n in range(700)], ["x", "y"])
    claims = take(store, 1000)
    assert end(store, *claims).unblocked == 2
    assert (info(store, "x").version, info(store, "y").version) == (2, 2)


def test_a_failure_goes_down_five_hundred_works(store: Store):
    ids = [f"n{n:03}" for n in range(501)]
    put_chain(store, *ids)
    fail(store, ids[0])
    assert set(states(store).values()) == {"FAILED"}
    last = info(store, ids[-1])
    assert "n000" in str(last.error)
    assert (last.run_attempt_count, last.output_data, last.finished_at is None) == (0, Data.EMPTY, False)


def test_a_failure_goes_down_diamonds_once(store: Store):
    layers = [[f"{layer}{n}" for n in range(4)] for layer in "abcdefgh"]
    put_chain(store, *layers)
    claims = take(store)
    end(store, claims[0], ending=Ending.FAILED)
    found = states(store)
    assert {found[each] for each in layers[0]} == {"ENQUEUED", "FAILED"}
    assert {found[each] for layer in layers[1:] for each in layer} == {"FAILED"}
    assert info(store, "h3").version == 2
    assert end(store, *claims[1:]).unblocked == 0


def test_a_failure_walks_through_cancelled_works_and_leaves_them(store: Store):
    """A descendant may also hang on another branch that was not cancelled with it."""
    put_chain(store, "a", "b", "c")
    with store.database.transaction() as connection:
        # A store whose writer died between two steps of an old version: CANCELLED above BLOCKED.
        connection.exec_driver_sql("UPDATE workmanager_work SET state = 5 WHERE id = 'b'")
    fail(store, "a")
    assert states(store) == {"a": "FAILED", "b": "CANCELLED", "c": "FAILED"}


def test_a_success_leaves_a_finished_child_alone(store: Store):
    put_chain(store, ["a", "b"], "c")
    fail(store, "a")
    assert end(store, take_one(store, "b")).unblocked == 0
    assert states(store) == {"a": "FAILED", "b": "SUCCEEDED", "c": "FAILED"}


def test_a_batch_may_hold_every_kind_of_verdict(store: Store):
    endings = [each for each in Ending if each is not Ending.REPLACED]  # that one writes a graph
    put(store, *(f"{n}-{ending.name.lower()}" for n, ending in enumerate(endings)))
    batch = [
        verdict
        for claim, ending in zip(sorted(take(store), key=lambda claim: claim.id), endings, strict=True)
        for verdict in verdicts(store, [claim], ending)
    ]
    settled = store.settle(batch)
    assert len(settled.accepted) == len(endings)
    assert list(states(store).values()) == ["SUCCEEDED", "FAILED", "ENQUEUED", "ENQUEUED", "ENQUEUED", "ENQUEUED"]


def test_a_batch_tells_stale_from_accepted(store: Store):
    put(store, "a", "b", "c")
    claims = take(store)
    store.cancel("b")
    with store.database.transaction() as connection:
        connection.exec_driver_sql("DELETE FROM workmanager_work WHERE id = 'c'")
    settled = end(store, *claims)
    assert (settled.accepted, settled.stale, settled.held) == ({"a"}, {"b", "c"}, set())
    assert states(store) == {"a": "SUCCEEDED", "b": "CANCELLED"}


def test_an_update_during_the_run_decides_about_the_next_one(store: Store):
    put(store, job("a", backoff_delay=10))
    claim = take_one(store, "a")
    store.update(job("a", backoff_delay=100, queue="ovens"), "ovens")
    end(store, claim, ending=Ending.RETRY)
    assert row(store, "a").run_at == START + 100 * SECOND
    move(store, HOUR)
    assert [again.id for again in take(store, queues=("ovens",))] == ["a"]


def test_texts_of_every_alphabet_and_size_come_back(store: Store):
    put(store, "a")
    output = json.dumps({"text": "ñ 漢 \U0001f35e \\ ' \" %s :x", "long": "x" * 60_000})
    end(store, take_one(store, "a"), output=output)
    assert info(store, "a").output_data.to_json() == Data.from_json(output).to_json()


# -- completing in the worker's own transaction --------------------------------------------------------------


@pytest.mark.parametrize("ending", [Ending.SUCCEEDED, Ending.FAILED])
def test_the_nodes_finish_after_the_workers_own_is_accepted_and_changes_nothing(store: Store, ending: Ending):
    put_chain(store, "a", "b")
    claim = take_one(store, "a")
    users = users_engine(store)
    with users.begin() as connection:
        (verdict,) = verdicts(store, [claim], ending, output='{"n": 1}')
        assert store.complete(connection, verdict) is True
        assert store.complete(connection, verdict) is True
    users.dispose()
    before = (row(store, "a"), row(store, "b"))
    assert info(store, "b").state is (State.ENQUEUED if ending is Ending.SUCCEEDED else State.FAILED)
    settled = end(store, claim, ending=ending, output='{"n": 2}')
    assert (settled.accepted, settled.stale) == ({"a"}, set())
    assert (row(store, "a"), row(store, "b")) == before


@pytest.mark.parametrize("ending", [Ending.SUCCEEDED, Ending.FAILED])
def test_the_nodes_finish_after_the_workers_own_says_nothing_to_children_again(store: Store, ending: Ending):
    put_chain(store, ["a", "b"], "c")
    claim = take_one(store, "a")
    users = users_engine(store)
    with users.connect() as connection, connection.begin():
        assert store.complete(connection, verdicts(store, [claim], Ending.SUCCEEDED)[0])
    users.dispose()
    assert end(store, claim, ending=ending).accepted == {"a"}
    assert states(store) == {"a": "SUCCEEDED", "b": "ENQUEUED", "c": "BLOCKED"}
    succeed(store, "b")
    assert state(store, "c") is State.ENQUEUED


def test_a_completion_that_is_rolled_back_leaves_the_run_its_work(store: Store):
    put_chain(store, "a", "b")
    claim = take_one(store, "a")
    users = users_engine(store)
    with users.connect() as connection, connection.begin() as transaction:
        (verdict,) = verdicts(store, [claim], Ending.SUCCEEDED)
        assert store.complete(connection, verdict) is True
        transaction.rollback()
    users.dispose()
    assert states(store) == {"a": "ENQUEUED", "b": "BLOCKED"}
    assert end(store, claim, output='{"n": 2}').unblocked == 1


def test_a_run_that_has_lost_its_work_cannot_complete_it(store: Store):
    put(store, "a")
    claim = take_one(store, "a")
    store.cancel("a")
    users = users_engine(store)
    with users.begin() as connection:
        (verdict,) = verdicts(store, [claim], Ending.SUCCEEDED)
        assert store.complete(connection, verdict) is False
    users.dispose()
    assert state(store, "a") is State.CANCELLED


def test_a_finish_is_final(store: Store):
    put(store, "a")
    succeed(store, "a")
    before = row(store, "a")
    assert store.claim_one("a", "node", 1) == []
    assert store.cancel("a") == []
    assert row(store, "a") == before
