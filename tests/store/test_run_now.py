"""Running a work that waits for its moment at once, also when others are at the same row."""

from __future__ import annotations

import itertools

import pytest

from celery_workmanager.errors import InvalidRequest, WorkNotFound
from celery_workmanager.outcome import Ending
from celery_workmanager.store import Store, finishing
from celery_workmanager.timing import SECOND
from celery_workmanager.work import State
from tests.stores import (
    HOUR,
    START,
    end,
    enqueue,
    fail,
    info,
    is_blocked,
    job,
    meanwhile,
    move,
    put,
    row,
    start,
    step,
    succeed,
    take,
    take_one,
    together,
    twin,
    verdicts,
    wait_until,
)


def ids(claims) -> list[str]:
    return [claim.id for claim in claims]


def test_a_delayed_work_may_be_claimed_now(store: Store):
    put(store, job("a", initial_delay=3600))
    before = info(store, "a").version
    assert store.make_due("a") is True
    assert info(store, "a").version == before + 1
    assert info(store, "a").next_schedule_time.timestamp() == START / SECOND
    assert ids(take(store)) == ["a"]


def test_a_retry_does_not_wait_for_its_backoff(store: Store):
    put(store, "a")
    end(store, take_one(store, "a"), ending=Ending.RETRY)
    assert take(store) == []
    assert store.make_due("a") is True
    (claim,) = take(store)
    assert claim.run_attempt_count == 1


def test_a_blocked_work_still_waits_for_its_prerequisites_but_not_for_its_delay(store: Store):
    put(store, "a")
    enqueue(store, step("a"), step(job("b", initial_delay=60, max_attempts=3), after=("a",)))
    assert store.make_due("b") is True
    assert info(store, "b").state is State.BLOCKED
    assert info(store, "b").initial_delay.total_seconds() == 0
    assert row(store, "b").options == '{"max_attempts": 3}'
    assert take(store, 1)[0].id == "a"
    assert store.make_due("b") is False


def test_a_blocked_work_that_was_told_to_run_now_runs_when_it_is_unblocked(store: Store):
    put(store, "a")
    enqueue(store, step("a"), step(job("b", initial_delay=60), after=("a",)))
    store.make_due("b")
    move(store, HOUR)
    succeed(store, "a")
    assert ids(take(store)) == ["b"]


def test_a_work_that_waits_for_no_moment_is_left_alone(store: Store):
    put(store, "ready", "claimed", "running")
    claims = {name: take_one(store, name) for name in ("claimed", "running")}
    start(store, claims["running"])
    before = [row(store, name) for name in ("ready", "claimed", "running")]
    assert [store.make_due(name) for name in ("ready", "claimed", "running")] == [False] * 3
    assert [row(store, name) for name in ("ready", "claimed", "running")] == before


def test_finished_and_unknown_works_are_refused(store: Store):
    put(store, "a", "b", "c")
    succeed(store, "a")
    fail(store, "b")
    store.cancel("c")
    for work_id, state in (("a", "SUCCEEDED"), ("b", "FAILED"), ("c", "CANCELLED")):
        with pytest.raises(InvalidRequest, match=f"expected work to run now to be unfinished .*, got: '{state}'"):
            store.make_due(work_id)
    with pytest.raises(WorkNotFound):
        store.make_due("nobody")


def test_it_is_part_of_the_callers_transaction(store: Store):
    put(store, job("a", initial_delay=3600))
    with store.database.engine().connect() as connection, connection.begin() as transaction:
        assert store.make_due("a", connection) is True
        transaction.rollback()
    assert take(store) == []


def test_it_waits_for_whoever_changes_the_work_and_judges_what_he_leaves(server: Store):
    put(server, job("a", initial_delay=3600))
    with server.database.transaction() as connection:
        server.cancel("a", connection)
        with meanwhile(lambda: server.make_due("a")) as answer:
            wait_until(lambda: is_blocked(server))
            connection.commit()
    with pytest.raises(InvalidRequest, match="got: 'CANCELLED'"):
        answer.result()


def test_a_blocked_work_that_is_being_unblocked_is_not_written_as_a_blocked_one(server: Store):
    put(server, "a")
    enqueue(server, step("a"), step(job("b", initial_delay=60), after=("a",)))
    claim = take_one(server, "a")
    with server.database.transaction() as connection:
        finishing.settle(connection, verdicts(server, [claim], Ending.SUCCEEDED), server.clock.now(), server.terms)
        with meanwhile(lambda: server.make_due("b")) as answer:
            wait_until(lambda: is_blocked(server))
            connection.commit()
    assert answer.result() is True
    assert ids(take(server)) == ["b"]


def test_of_a_cancel_and_a_run_now_one_comes_first(store: Store):
    for number in range(10):
        name = f"w{number}"
        put(store, job(name, initial_delay=3600))
        other = twin(store)
        _, answer = together(lambda name=name: store.cancel(name), lambda name=name, o=other: o.make_due(name))
        other.close()
        assert info(store, name).state is State.CANCELLED
        assert answer is True or isinstance(answer, InvalidRequest)
        assert row(store, name).ready_lane is None


def test_a_work_that_is_promoted_told_to_run_now_and_claimed_at_once_is_claimed_once(store: Store):
    tokens = itertools.count(1)
    for number in range(10):
        name = f"w{number}"
        put(store, job(name, initial_delay=60))
        store.clock.move(60 * SECOND)  # type: ignore[attr-defined]
        others = [twin(store) for _ in range(2)]
        answers = together(
            lambda name=name: store.make_due(name),
            others[0].promote,
            lambda name=name, o=others[1]: o.claim_one(name, "early", next(tokens)),
        )
        for each in others:
            each.close()
        assert not [each for each in answers if isinstance(each, Exception)]
        claims = [*answers[2], *store.claim_one(name, "late", next(tokens))]
        assert ids(claims) == [name]
        assert row(store, name).node == claims[0].node
        assert store.make_due(name) is False
        assert row(store, name).ready_lane is None
        assert end(store, claims[0]).accepted == {name}
