"""Ends on their way into the store: kept while it is away, and none for the sake of another."""

from __future__ import annotations

import sqlite3

import pytest
from sqlalchemy.exc import DataError, OperationalError

from celery_workmanager.errors import StoreBusy, StoreUnavailable
from celery_workmanager.outcome import Ending, Outcome
from celery_workmanager.settlement import PATIENCE, Settlement
from celery_workmanager.store import Settled
from celery_workmanager.timing import SECOND
from tests.stores import register, take_one


def broken(*errors):
    """A stand-in for `store.settle` that raises each of these once."""
    left = list(errors)

    def wrap(settle):
        def call(verdicts, *taker):
            if left:
                raise left.pop(0)
            return settle(verdicts)

        return call

    return wrap


def outage():
    return StoreUnavailable("sqlite://", "gone")


@pytest.fixture
def node(world):
    world.enqueue(3)
    return world.node(concurrency=3).join()


@pytest.mark.parametrize(
    "error",
    [
        outage(),
        StoreBusy("sqlite://", 5.0),
        OperationalError("UPDATE", {}, sqlite3.OperationalError("database table is locked")),
    ],
    ids=["away", "locked", "conflict"],
)
def test_while_the_store_is_away_ends_are_kept_and_written_later(world, node, monkeypatch, error):
    ids = list(node.running)
    monkeypatch.setattr(world.store, "settle", broken(error)(world.store.settle))
    for work_id in ids:
        node.ended(work_id, output='{"a":1}')
    assert node.dispatcher.guarded_step() is False
    assert not node.dispatcher.is_idle
    assert world.states(*ids) == ["ENQUEUED"] * 3
    assert {work_id for work_id, _ in node.dispatcher.in_hand()} == set(ids)
    node.settle()
    assert world.states(*ids) == ["SUCCEEDED"] * 3
    assert node.dispatcher.is_idle
    assert node.dispatcher.in_hand() == set()


def test_the_pause_grows_while_the_store_is_away_and_is_short_again_afterwards(world, node, monkeypatch):
    pauses: list[float] = []
    monkeypatch.setattr(node.dispatcher.rung, "wait", pauses.append)
    [work_id, *_] = node.running
    monkeypatch.setattr(world.store, "settle", broken(*(outage() for _ in range(8)))(world.store.settle))
    node.ended(work_id)
    for _ in range(9):
        node.dispatcher.guarded_step()
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert node.dispatcher._pause == 0.05


def test_an_end_that_the_database_refuses_fails_alone_with_the_reason(world, node):
    ids = list(node.running)
    settle = world.store.settle

    def picky(verdicts, *taker):
        if any(verdict.output == '{"bad":1}' for verdict in verdicts):
            raise DataError("UPDATE", {}, Exception("value too odd"))
        return settle(verdicts)

    world.store.settle = picky
    for number, work_id in enumerate(ids):
        node.ended(work_id, output='{"bad":1}' if number == 1 else '{"good":1}')
    node.settle()
    assert world.states(*ids) == ["SUCCEEDED", "FAILED", "SUCCEEDED"]
    assert "value too odd" in world.info(ids[1]).error.message
    assert node.dispatcher.is_idle


def test_rows_that_others_hold_are_tried_again_alone_after_a_while(world, node, monkeypatch):
    ids = list(node.running)
    settle, batches, held = world.store.settle, [], {ids[0]}

    def holding(verdicts, *taker):
        batches.append([verdict.id for verdict in verdicts])
        found = settle([verdict for verdict in verdicts if verdict.id not in held])
        return Settled(found.accepted, found.stale, {each.id for each in verdicts if each.id in held}, found.unblocked)

    monkeypatch.setattr(world.store, "settle", holding)
    for work_id in ids:
        node.ended(work_id)
    node.settle()
    assert world.states(*ids) == ["ENQUEUED", "SUCCEEDED", "SUCCEEDED"]
    assert batches == [ids]
    node.dispatcher.step()
    assert len(batches) == 1
    world.advance(PATIENCE)
    node.settle()
    assert batches == [ids, [ids[0]]]
    held.clear()
    world.advance(PATIENCE)
    node.settle()
    assert world.states(ids[0]) == ["SUCCEEDED"]
    assert node.dispatcher.is_idle


def test_an_outage_while_held_ends_are_tried_loses_none_of_them(world, node, monkeypatch):
    ids = list(node.running)
    settle = world.store.settle
    answers = [lambda verdicts: Settled(held={each.id for each in verdicts}), broken(outage())(settle)]
    monkeypatch.setattr(world.store, "settle", lambda verdicts, _taker=None: answers[0](verdicts))
    for work_id in ids:
        node.ended(work_id)
    node.settle()
    del answers[0]
    world.advance(PATIENCE)
    node.dispatcher.guarded_step()
    assert not node.dispatcher.is_idle
    world.advance(PATIENCE)
    node.settle()
    assert world.states(*ids) == ["SUCCEEDED"] * 3


def test_an_answer_that_was_lost_after_the_commit_is_no_harm(world, node, monkeypatch):
    settle, calls = world.store.settle, []

    def lost(verdicts, *taker):
        found = settle(verdicts)
        calls.append(found)
        if len(calls) == 1:
            raise outage()
        return found

    monkeypatch.setattr(world.store, "settle", lost)
    [work_id, *_] = node.running
    node.ended(work_id, output='{"a":1}')
    node.dispatcher.guarded_step()
    info = world.info(work_id)
    node.settle()
    assert world.info(work_id) == info
    assert calls[1].accepted == {work_id}


@pytest.mark.parametrize("old_first", [True, False], ids=["old first", "new first"])
def test_the_end_of_a_run_that_had_lost_its_work_does_nothing_beside_that_of_the_present_one(world, old_first):
    """One process may see both: its node was declared lost, and as a new one it took the work again."""
    parent, child = world.chain()
    old = take_one(world.store, parent, "old")
    register(world.store, "old", lease=SECOND)
    world.advance(2)
    assert world.store.heal(world.clock.now()) is not None
    new = take_one(world.store, parent, "new")
    settlement = Settlement(world.store, world.clock)
    ends = [(old, Outcome(Ending.SUCCEEDED, started_at=0.0)), (new, Outcome(Ending.RETRY, started_at=0.0))]
    for claim, outcome in ends if old_first else reversed(ends):
        settlement.add(claim, outcome)
    settlement.write()
    assert settlement.is_empty
    assert (world.info(parent).run_attempt_count, world.states(parent, child)) == (1, ["ENQUEUED", "BLOCKED"])
