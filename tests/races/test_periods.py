"""The end of a period against everything that may happen to the same work at the same moment."""

from __future__ import annotations

from typing import Any

from celery_workmanager.outcome import Claim, Ending
from celery_workmanager.policies import ExistingPeriodicWorkPolicy, UpdateResult
from celery_workmanager.store import Settled, Store, finishing
from celery_workmanager.timing import SECOND, as_datetime
from celery_workmanager.work import State
from tests.stores import (
    HOUR,
    QUEUE,
    START,
    end,
    every,
    holding,
    info,
    is_blocked,
    meanwhile,
    move,
    put,
    put_named,
    register,
    row,
    sql,
    start,
    state,
    take,
    take_one,
    together,
    twin,
    verdicts,
    wait_until,
)

ROUNDS = 8
TWO_HOURS = 7200.0
UPDATE = ExistingPeriodicWorkPolicy.UPDATE


def end_at_last(store: Store, claim: Claim, **how: Any) -> Settled:
    """Settle as a node does: what others hold is tried again."""
    found: list[Settled] = []

    def settled() -> bool:
        found.append(end(store, claim, **how))
        return not found[-1].held

    wait_until(settled)
    return found[-1]


def settle_in(store: Store, connection: Any, claim: Claim) -> Settled:
    """Settle in a transaction that stays open."""
    found = verdicts(store, [claim], Ending.SUCCEEDED)
    return finishing.settle(connection, found, store.clock.now(), store.terms)


# -- an update ---------------------------------------------------------------------------------------------------------


def test_of_an_end_and_an_update_neither_is_lost_and_the_later_one_decides_by_the_new_interval(store: Store):
    other = twin(store)
    for n in range(ROUNDS):
        put(store, every(f"a{n}"))
        claim = take_one(store, f"a{n}")
        settled, updated = together(
            lambda claim=claim: end_at_last(store, claim),
            lambda n=n: other.update(every(f"a{n}", seconds=TWO_HOURS), QUEUE),
        )
        assert settled.accepted == {f"a{n}"}
        assert updated in (UpdateResult.APPLIED_IMMEDIATELY, UpdateResult.APPLIED_FOR_NEXT_RUN)
        found = row(store, f"a{n}")
        assert (found.period_count, found.generation, found.due_at, found.node) == (1, 1, START + 2 * HOUR, None)
    other.close()


def test_an_end_during_an_uncommitted_update_waits_for_nobody_and_is_judged_by_it_afterwards(server: Store):
    put(server, every("a"), every("b"))
    claims = [take_one(server, "a"), take_one(server, "b")]
    with holding(server) as connection:
        at = as_datetime(START + 5 * HOUR)
        new = every("a", next_schedule_time_override=at, seconds=TWO_HOURS)
        assert server.update(new, QUEUE, connection) is UpdateResult.APPLIED_FOR_NEXT_RUN
        settled = end(server, *claims)
        assert (settled.accepted, settled.held) == ({"b"}, {"a"})
    assert end(server, claims[0]).accepted == {"a"}
    assert (row(server, "a").run_at, row(server, "a").period_at) == (START + 5 * HOUR, START + 2 * HOUR)


def test_an_update_during_an_uncommitted_end_waits_and_is_applied_to_the_work_that_waits(server: Store):
    put(server, every("a"))
    claim = take_one(server, "a")
    with server.database.transaction() as connection:
        settle_in(server, connection, claim)
        with meanwhile(lambda: server.update(every("a", seconds=TWO_HOURS), QUEUE)) as updated:
            wait_until(lambda: is_blocked(server))
            connection.commit()
    assert updated.result() is UpdateResult.APPLIED_IMMEDIATELY
    assert row(server, "a").due_at == START + 2 * HOUR


def test_of_an_end_and_an_override_the_override_is_never_the_loser(store: Store):
    """Whichever comes first: an override that was set while the run was under way is for the run after it."""
    other = twin(store)
    at = as_datetime(START + 5 * HOUR)
    for n in range(ROUNDS):
        put(store, every(f"a{n}", next_schedule_time_override=as_datetime(START)))
        claim = take_one(store, f"a{n}")
        together(
            lambda claim=claim: end_at_last(store, claim),
            lambda n=n: other.update(every(f"a{n}", next_schedule_time_override=at), QUEUE),
        )
        found = row(store, f"a{n}")
        assert (found.period_count, found.run_at, found.override_at) == (1, START + 5 * HOUR, START + 5 * HOUR)
    other.close()


# -- a cancel ----------------------------------------------------------------------------------------------------------


def test_of_an_end_and_a_cancel_the_end_is_the_loser_or_the_work_is_cancelled_while_it_waits(store: Store):
    other = twin(store)
    for n in range(ROUNDS):
        put(store, every(f"a{n}"))
        claim = take_one(store, f"a{n}")
        settled, cancelled = together(lambda claim=claim: end_at_last(store, claim), lambda n=n: other.cancel(f"a{n}"))
        assert cancelled == [f"a{n}"]
        found = row(store, f"a{n}")
        assert found.state == State.CANCELLED
        assert (found.due_at, found.ready_lane) == (None, None)
        assert found.period_count == (1 if settled.accepted else 0)
        assert len(store.runs(f"a{n}")) == found.period_count
    move(store, 10 * HOUR)
    assert take(store) == []
    other.close()


def test_a_cancel_during_an_uncommitted_end_waits_and_cancels_what_waits(server: Store):
    put(server, every("a"))
    claim = take_one(server, "a")
    with server.database.transaction() as connection:
        settle_in(server, connection, claim)
        with meanwhile(lambda: server.cancel("a")) as cancelled:
            wait_until(lambda: is_blocked(server))
            connection.commit()
    assert cancelled.result() == ["a"]
    assert (state(server, "a"), info(server, "a").period_count) == (State.CANCELLED, 1)


def test_an_end_during_an_uncommitted_cancel_is_the_loser(server: Store):
    put(server, every("a"))
    claim = take_one(server, "a")
    start(server, claim)
    with holding(server) as connection:
        server.cancel("a", connection)
        assert end(server, claim).held == {"a"}
    assert end(server, claim).stale == {"a"}
    assert [each.outcome.name for each in server.runs("a")] == ["CANCELLED"]


# -- run_now -----------------------------------------------------------------------------------------------------------


def test_of_an_end_and_a_run_now_the_run_now_is_the_loser_or_starts_the_next_period_once(store: Store):
    other = twin(store)
    for n in range(ROUNDS):
        put(store, every(f"a{n}", fixed_rate=True))
        claim = take_one(store, f"a{n}")
        settled, made_due = together(lambda claim=claim: end_at_last(store, claim), lambda n=n: other.make_due(f"a{n}"))
        assert settled.accepted == {f"a{n}"}
        found = row(store, f"a{n}")
        assert (found.period_count, found.period_at) == (1, START + HOUR)
        assert [each.id for each in take(store)] == ([f"a{n}"] if made_due else [])
        assert store.claim_one(f"a{n}", "late", 1) == []
    other.close()


def test_a_run_now_during_an_uncommitted_end_waits_and_brings_the_next_run_forward(server: Store):
    put(server, every("a", fixed_rate=True))
    claim = take_one(server, "a")
    with server.database.transaction() as connection:
        settle_in(server, connection, claim)
        with meanwhile(lambda: server.make_due("a")) as made_due:
            wait_until(lambda: is_blocked(server))
            connection.commit()
    assert made_due.result() is True
    assert end(server, take_one(server, "a")).accepted == {"a"}
    assert (row(server, "a").period_count, row(server, "a").period_at) == (2, START + 2 * HOUR)


# -- a heal ------------------------------------------------------------------------------------------------------------


def test_of_an_end_and_a_heal_the_loser_changes_nothing_and_the_period_ends_once(store: Store):
    other = twin(store)
    for n in range(ROUNDS):
        put(store, every(f"a{n}", seconds=100 * 3600))
        register(store, f"node{n}")
        claim = take_one(store, f"a{n}", f"node{n}")
        start(store, claim)
        move(store, HOUR)
        settled, _ = together(lambda claim=claim: end_at_last(store, claim), lambda: other.heal(store.clock.now()))
        found = row(store, f"a{n}")
        assert found.state == State.ENQUEUED
        if settled.accepted:
            assert (found.period_count, found.interruptions) == (1, 0)
        else:
            assert settled.stale == {f"a{n}"}
            assert (found.period_count, found.interruptions) == (0, 1)
        assert len(store.runs(f"a{n}")) == 1
        while store.heal(store.clock.now()) is not None:
            pass
        sql(store, "DELETE FROM workmanager_work")
    other.close()


# -- two enqueues, two claimers, two timekeepers -----------------------------------------------------------------------


def test_of_two_updates_of_a_free_name_the_slower_one_updates_what_the_faster_one_stored(store: Store):
    other = twin(store)
    for n in range(ROUNDS):
        insertions = together(
            lambda n=n: put_named(store, f"name {n}", UPDATE, every(f"a{n}")),
            lambda n=n: put_named(other, f"name {n}", UPDATE, every(f"b{n}")),
        )
        assert not [each for each in insertions if isinstance(each, Exception)]
        ids = {each for insertion in insertions for each in insertion.ids}
        assert len(ids) == 1
        assert row(store, *ids).generation == 1
    other.close()


def test_of_two_timekeepers_and_two_claimers_at_one_moment_one_has_the_period(store: Store):
    other = twin(store)
    put(store, every("a", seconds=1, fixed_rate=True))
    for n in range(ROUNDS):
        together(store.promote, other.promote)
        claims = together(lambda: take(store, node="one"), lambda: take(other, node="two"))
        (claim,) = (claim for each in claims for claim in each)
        assert claim.standing is not None
        assert (claim.standing.count, claim.standing.at) == (n, START + n * SECOND)
        assert end(store, claim).accepted == {"a"}
        move(store, SECOND)
    other.close()
