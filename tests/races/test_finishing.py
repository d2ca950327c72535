"""Ends of runs against everything that may happen to the same works at the same moment."""

from __future__ import annotations

from typing import Any

import pytest

from celery_workmanager.outcome import Claim, Ending
from celery_workmanager.planning import plan_insertion
from celery_workmanager.sentences import Sentence
from celery_workmanager.store import Settled, Store, finishing, graph, inserting
from celery_workmanager.work import State
from tests.stores import (
    APPEND,
    HOUR,
    KEEP,
    end,
    enqueue,
    holding,
    info,
    is_blocked,
    meanwhile,
    move,
    put,
    put_chain,
    put_named,
    register,
    sql,
    start,
    state,
    states,
    step,
    take,
    take_one,
    together,
    twin,
    verdicts,
    wait_until,
)

ROUNDS = 8


def end_at_last(store: Store, claim: Claim, **how: Any) -> Settled:
    """Settle as a node does: what others hold is tried again."""
    found: list[Settled] = []

    def settled() -> bool:
        found.append(end(store, claim, **how))
        return not found[-1].held

    wait_until(settled)
    return found[-1]


def settle_in(store: Store, connection: Any, claim: Claim, ending: Ending = Ending.SUCCEEDED) -> Settled:
    """Settle in a transaction that stays open."""
    return finishing.settle(connection, verdicts(store, [claim], ending), store.clock.now(), store.terms)


# -- two parents ---------------------------------------------------------------------------------------------


def test_of_two_parents_that_finish_together_the_later_one_unblocks_the_child_once(store: Store):
    other = twin(store)
    for n in range(ROUNDS):
        a, b, child = f"a{n}", f"b{n}", f"c{n}"
        put_chain(store, [a, b], child)
        claims = [take_one(store, a), take_one(store, b)]
        ends = together(
            lambda claims=claims: end_at_last(store, claims[0]), lambda claims=claims: end_at_last(other, claims[1])
        )
        assert sorted(each.unblocked for each in ends) == [0, 1]
        assert (state(store, child), info(store, child).version) == (State.ENQUEUED, 2)
    other.close()


def test_the_parent_that_finds_its_child_held_is_told_so_and_unblocks_it_later(server: Store):
    put_chain(server, ["a", "b"], "c")
    first, second = take_one(server, "a"), take_one(server, "b")
    with server.database.transaction() as connection:
        assert settle_in(server, connection, first).accepted == {"a"}
        assert end(server, second).held == {"b"}
        assert state(server, "b") is State.ENQUEUED
    assert end(server, second).unblocked == 1
    assert state(server, "c") is State.ENQUEUED


def test_without_the_lock_both_parents_miss_the_last_one_and_the_sweep_repairs_it(
    server: Store, monkeypatch: pytest.MonkeyPatch
):
    """Why children are locked before they are counted down, and what the sweep is for."""
    put_chain(server, ["a", "b"], "c")
    first, second = take_one(server, "a"), take_one(server, "b")
    monkeypatch.setattr(graph, "locking", lambda statement, *_args, **_options: statement)
    monkeypatch.setattr(graph, "_LOCK_ONE", dict.fromkeys((False, True), Sentence(graph._ONE)))
    with server.database.transaction() as connection:
        settle_in(server, connection, first)
        with meanwhile(lambda: end(server, second)) as ended:
            wait_until(lambda: is_blocked(server))
            connection.commit()
    assert ended.result().accepted == {"b"}
    monkeypatch.undo()
    assert states(server) == {"a": "SUCCEEDED", "b": "SUCCEEDED", "c": "BLOCKED"}
    assert server.sweep("") == ("", 1)
    assert [claim.id for claim in take(server)] == ["c"]


# -- two claimers --------------------------------------------------------------------------------------------


def test_of_two_claimers_of_one_work_the_slower_one_gets_nothing(store: Store):
    other = twin(store)
    register(store, "one")
    register(store, "two")
    for n in range(ROUNDS):
        put(store, f"w{n}")
        claims = together(lambda: take(store, node="one"), lambda: take(other, node="two"))
        assert [claim.id for each in claims for claim in each] == [f"w{n}"]
        (claim,) = (claim for each in claims for claim in each)
        assert store.owned(claim.node)[claim.id] == claim.token
    other.close()


def test_claimers_share_what_there_is_and_nobody_gets_what_another_has(store: Store):
    put(store, *(f"w{n:03}" for n in range(200)))
    claimers = [twin(store) for _ in range(4)]

    def drain(own: Store) -> list[str]:
        found: list[str] = []
        while some := take(own, 7):
            found += [claim.id for claim in some]
        return found

    shares = together(*(lambda own=each: drain(own) for each in claimers))
    assert sorted(each for share in shares for each in share) == [f"w{n:03}" for n in range(200)]
    for each in claimers:
        each.close()


# -- a finish and a cancel -----------------------------------------------------------------------------------


def test_of_a_finish_and_a_cancel_the_later_one_changes_nothing(store: Store):
    other = twin(store)
    for n in range(ROUNDS):
        put_chain(store, f"a{n}", f"b{n}")
        claim = take_one(store, f"a{n}")
        settled, cancelled = together(lambda claim=claim: end_at_last(store, claim), lambda n=n: other.cancel(f"a{n}"))
        if settled.accepted:
            assert (cancelled, state(store, f"a{n}")) == ([f"b{n}"], State.SUCCEEDED)
        else:
            assert (cancelled, state(store, f"a{n}")) == ([f"a{n}", f"b{n}"], State.CANCELLED)
            assert settled.stale == {f"a{n}"}
        assert state(store, f"b{n}") is State.CANCELLED
    other.close()


def test_a_finish_during_an_uncommitted_cancel_waits_for_nobody_and_loses_when_it_commits(server: Store):
    put(server, "a", "b")
    claims = [take_one(server, "a"), take_one(server, "b")]
    with holding(server) as connection:
        server.cancel("a", connection)
        settled = end(server, *claims)
        assert (settled.accepted, settled.held) == ({"b"}, {"a"})
    assert end(server, claims[0]).stale == {"a"}
    assert states(server) == {"a": "CANCELLED", "b": "SUCCEEDED"}


def test_a_cancel_during_an_uncommitted_finish_waits_and_comes_too_late(server: Store):
    put(server, "a")
    claim = take_one(server, "a")
    with server.database.transaction() as connection:
        settle_in(server, connection, claim)
        with meanwhile(lambda: server.cancel("a")) as cancelled:
            wait_until(lambda: is_blocked(server))
            connection.commit()
    assert cancelled.result() == []
    assert state(server, "a") is State.SUCCEEDED


# -- a finish and a heal -------------------------------------------------------------------------------------


def test_of_a_finish_and_a_heal_the_later_one_changes_nothing(store: Store):
    other = twin(store)
    for n in range(ROUNDS):
        put(store, f"a{n}")
        register(store, f"node{n}")
        claim = take_one(store, f"a{n}", f"node{n}")
        start(store, claim)
        move(store, HOUR)
        settled, healed = together(lambda claim=claim: end_at_last(store, claim), lambda: other.heal(store.clock.now()))
        assert healed is not None
        if settled.accepted:
            assert state(store, f"a{n}") is State.SUCCEEDED
            assert info(store, f"a{n}").interruptions == 0
        else:
            assert settled.stale == {f"a{n}"}
            assert info(store, f"a{n}").interruptions == 1
            assert state(store, f"a{n}") is State.ENQUEUED
        while store.heal(store.clock.now()) is not None:
            pass
        sql(store, "DELETE FROM workmanager_work")
    other.close()


# -- a finish and new dependents -----------------------------------------------------------------------------


def test_of_a_finish_and_an_append_the_later_one_starts_the_new_work(store: Store):
    other = twin(store)
    for n in range(ROUNDS):
        name, old, new = f"order {n}", f"a{n}", f"b{n}"
        put_named(store, name, KEEP, old)
        claim = take_one(store, old)
        settled, _ = together(
            lambda claim=claim: end_at_last(store, claim),
            lambda name=name, new=new: put_named(other, name, APPEND, new),
        )
        assert settled.accepted == {old}
        assert state(store, new) is State.ENQUEUED
        assert info(store, new).prerequisites == (old,)
    other.close()


def test_of_a_finish_and_a_step_that_follows_the_later_one_starts_the_new_work(store: Store):
    """``first.then(more).enqueue()`` while the first one ends."""
    other = twin(store)
    for n in range(ROUNDS):
        put(store, f"a{n}")
        claim = take_one(store, f"a{n}")
        settled, _ = together(
            lambda claim=claim: end_at_last(store, claim),
            lambda n=n: enqueue(other, step(f"a{n}"), step(f"b{n}", after=(f"a{n}",))),
        )
        assert settled.accepted == {f"a{n}"}
        assert state(store, f"b{n}") is State.ENQUEUED
    other.close()


def test_a_finish_between_the_look_at_a_parent_and_the_insert_below_it_is_held(
    server: Store, monkeypatch: pytest.MonkeyPatch
):
    """Without the lock on the parent its child would be BLOCKED behind a work that has finished."""
    put(server, "a")
    claim = take_one(server, "a")
    other, real, seen = twin(server), plan_insertion, list[Settled]()

    def finish_first(*given: Any) -> Any:
        if given[2]:  # the works that are known to exist
            seen.append(end(other, claim))
        return real(*given)

    monkeypatch.setattr(inserting, "plan_insertion", finish_first)
    enqueue(server, step("a"), step("b", after=("a",)))
    assert seen[-1].held == {"a"}
    assert end(server, claim).unblocked == 1
    other.close()


def test_a_finish_during_an_uncommitted_append_is_held_and_unblocks_it_afterwards(server: Store):
    put_named(server, "order", KEEP, "a")
    claim = take_one(server, "a")
    with holding(server) as connection:
        put_named(server, "order", APPEND, "b", connection=connection)
        assert end(server, claim).held == {"a"}
    assert end(server, claim).unblocked == 1


@pytest.mark.parametrize("ending", ["fail", "cancel"])
def test_a_work_appended_below_while_the_end_walks_down_shares_it(
    server: Store, monkeypatch: pytest.MonkeyPatch, ending: str
):
    """The walk has passed when the edge comes; it is found once everything is locked."""
    put(server, "top")
    enqueue(server, step("top"), step("middle", after=("top",)))
    put_named(server, "order", KEEP, "old")
    enqueue(server, step("middle"), step("low", after=("middle",)))
    claim = take_one(server, "top")
    other, late, real = twin(server), ["x", "y"], graph.lock_works

    def append_below(connection: Any, ids: Any, *, wait: bool) -> Any:
        wanted = list(ids)
        if "low" in wanted and late:
            enqueue(other, step("low"), step(late.pop(0), after=("low",)), step("z", after=("x",)))
        elif "x" in wanted and late:
            enqueue(other, step("z"), step(late.pop(0), after=("z",)))
        return real(connection, wanted, wait=wait)

    monkeypatch.setattr(graph, "lock_works", append_below)
    if ending == "fail":
        end(server, claim, ending=Ending.FAILED)
    else:
        server.cancel("top")
    found = states(server)
    del found["old"]
    assert found.keys() == {"top", "middle", "low", "x", "y", "z"}
    assert set(found.values()) == {"FAILED" if ending == "fail" else "CANCELLED"}
    other.close()
