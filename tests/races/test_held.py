"""Somebody's open transaction stalls nobody, and an end that can't be written spoils no other's."""

from __future__ import annotations

import pytest

from celery_workmanager.outcome import Ending, Outcome
from celery_workmanager.revocations import Revocations
from celery_workmanager.settlement import Settlement
from celery_workmanager.store import Store
from celery_workmanager.timing import SECOND
from celery_workmanager.work import StopReason
from tests.stores import (
    HOUR,
    end,
    enqueue,
    holding,
    info,
    job,
    move,
    put,
    put_chain,
    register,
    row,
    sql,
    start,
    states,
    step,
    succeed,
    take,
    take_one,
    twin,
)

# -- somebody's open transaction -----------------------------------------------------------------------------


def test_a_batch_is_accepted_but_for_the_work_that_somebody_holds(server: Store):
    put(server, *(f"w{n}" for n in range(20)))
    claims = take(server, 100)
    with holding(server, "w7"):
        settled = end(server, *claims)
        assert settled.held == {"w7"}
        assert len(settled.accepted) == 19
    assert end(server, *(claim for claim in claims if claim.id == "w7")).accepted == {"w7"}


def test_only_works_with_dependents_wait_when_somebody_holds_a_dependent(server: Store):
    put(server, *(f"w{n}" for n in range(20)))
    put_chain(server, "parent", "child")
    claims = take(server, 100)
    with holding(server, "child"):
        settled = end(server, *claims)
        assert settled.held == {"parent"}
        assert len(settled.accepted) == 20
    assert end(server, *(claim for claim in claims if claim.id == "parent")).unblocked == 1


def test_starts_and_progress_pass_over_the_work_that_somebody_holds(server: Store):
    put(server, "held", "free")
    claims = take(server)
    with holding(server, "held"):
        assert start(server, *claims) == {"free"}
        assert server.write_progress([(claim, "{}") for claim in claims]) == {"free"}
        assert [claim.id for claim in take(server)] == []
    assert start(server, *claims) == {"held"}


@pytest.mark.parametrize("held", ["w3", "child"])
def test_revoking_passes_over_the_work_that_somebody_holds(server: Store, held: str):
    put_chain(server, "w3", "child")
    put(server, *(f"w{n}" for n in (0, 1, 2, 4, 5, 6)))
    revocations = Revocations(server)
    revocations.add([f"w{n}" for n in range(7)], StopReason.CANCELLED_BY_APP)
    with holding(server, held):
        revocations.write()
        assert not revocations.is_empty
        assert {each for each, state in states(server).items() if state != "CANCELLED"} == {"w3", "child"}
    revocations.write()
    assert revocations.is_empty
    assert set(states(server).values()) == {"CANCELLED"}


def test_a_promotion_passes_over_the_work_that_somebody_holds(server: Store):
    put(server, job("held", initial_delay=1), job("free", initial_delay=1))
    server.clock.move(SECOND)  # type: ignore[attr-defined]
    with holding(server, "held"):
        assert server.promote() == 1
        assert [claim.id for claim in take(server)] == ["free"]
    assert server.promote() == 1


def test_an_expiry_passes_over_works_whose_dependents_somebody_holds(server: Store):
    """Upkeep waits for nobody: the others expire at once."""
    put(server, job("held", expires=1), job("free", expires=1))
    enqueue(server, step("held"), step("child", after=("held",)))
    server.clock.move(SECOND)  # type: ignore[attr-defined]
    with holding(server, "child"):
        assert server.expire() == ["free"]
    assert server.expire() == ["child", "held"]


def test_a_sweep_passes_over_works_that_somebody_holds(server: Store):
    put_chain(server, "a", ["b", "c"], "d")
    sql(server, "UPDATE workmanager_work SET state = 5, ready_lane = NULL WHERE id = 'a'")
    with holding(server, "d"):
        assert server.sweep("") == ("", 0)
    assert server.sweep("")[1] == 3
    assert info(server, "d").stop_reason is StopReason.NOT_STOPPED


def test_pruning_passes_over_works_that_somebody_holds(server: Store):
    put(server, "held", "free")
    succeed(server, "held", "free")
    with holding(server, "held"):
        assert server.prune(only_expired=False) == 1
    assert list(states(server)) == ["held"]


def test_a_heal_passes_over_what_others_hold_and_goes_on_to_the_next_node(server: Store):
    """One open transaction of a user's must not keep the works of all lost nodes."""
    put(server, "held", "free", "elsewhere")
    for node, ids in (("one", ["held", "free"]), ("two", ["elsewhere"])):
        register(server, node)
        for each in ids:
            take_one(server, each, node)
    move(server, HOUR)
    with holding(server, "held"):
        found = server.heal(server.clock.now())
        assert found is not None
        assert (found[0], found[1].accepted, found[1].held) == ("one", {"free"}, {"held"})
        found = server.heal(server.clock.now(), passing=["one"])
        assert found is not None
        assert (found[0], found[1].accepted) == ("two", {"elsewhere"})
    found = server.heal(server.clock.now())
    assert found is not None
    assert found[1].accepted == {"held"}


def test_a_poison_pill_whose_dependent_is_held_waits_alone(server: Store):
    store = twin(server, max_interruptions=1)
    put_chain(store, "pill", "child")
    put(store, "innocent")
    register(store)
    start(store, take_one(store, "pill"))
    take_one(store, "innocent")
    move(store, HOUR)
    with holding(store, "child"):
        found = store.heal(store.clock.now())
        assert found is not None
        assert (found[1].accepted, found[1].held) == ({"innocent"}, {"pill"})
    found = store.heal(store.clock.now())
    assert found is not None
    assert states(store) == {"child": "FAILED", "innocent": "ENQUEUED", "pill": "FAILED"}
    store.close()


# -- an end that the database refuses ------------------------------------------------------------------------


@pytest.fixture
def refusing(store: Store):
    """A database that takes no output with the word "poison"."""
    if store.database.is_sqlite:
        guard = """CREATE TRIGGER refuse BEFORE UPDATE ON workmanager_work WHEN NEW.output LIKE '%poison%'
            BEGIN SELECT RAISE(ABORT, 'to refuse is my right'); END"""
        undo = "DROP TRIGGER refuse"
    else:
        guard = "ALTER TABLE workmanager_work ADD CONSTRAINT refuse CHECK (output NOT LIKE '%poison%')"
        undo = "ALTER TABLE workmanager_work DROP CONSTRAINT refuse"
    sql(store, guard)
    yield store
    sql(store, undo)


@pytest.mark.parametrize("bad", [{0}, {40}, {63}, {3, 4, 50}])
def test_an_end_that_the_database_refuses_fails_alone_with_the_reason(refusing: Store, bad: set[int]):
    store = refusing
    put(store, *(f"w{n:02}" for n in range(64)))
    put_chain(store, "w99", "child")
    settlement = Settlement(store, store.clock)
    for claim in take(store, 100):
        number = int(claim.id[1:])
        word = "poison" if number in bad else "bread"
        settlement.add(claim, Outcome(Ending.SUCCEEDED, output=f'{{"word": "{word}"}}', started_at=0.0))
    assert settlement.write() is True
    assert settlement.is_empty
    found = states(store)
    failed = {f"w{n:02}" for n in bad}
    assert {each for each, state in found.items() if state == "FAILED"} == failed
    assert {each for each, state in found.items() if state == "SUCCEEDED"} == found.keys() - failed - {"child"}
    assert found["child"] == "ENQUEUED"
    for each in failed:
        assert "refuse" in str(info(store, each).error)
        assert row(store, each).output == "{}"
