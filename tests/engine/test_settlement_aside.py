"""Ends that another thread writes: works go on being claimed meanwhile, and nothing is lost or out of order."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from celery_workmanager.dispatcher import LOOK_AGAIN, MOST_HELD
from celery_workmanager.errors import StoreUnavailable
from celery_workmanager.messenger import Messenger
from celery_workmanager.outcome import Ending
from celery_workmanager.work import StopReason


class Other:
    """A thread that makes its calls when a test says so."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def go_on(self) -> None:
        self.calls.pop(0)()


@pytest.fixture
def other():
    return Other()


@pytest.fixture
def node(world, other):
    world.enqueue(6)
    return world.node(concurrency=2, aside=other.calls.append).join()


def test_works_are_claimed_while_ends_are_under_way(world, node, other):
    first, second = node.running
    node.ended(first)
    node.settle()
    assert len(other.calls) == 1
    assert world.states(first) == ["ENQUEUED"]
    assert (first, node.engine.claims[first].token) in node.dispatcher.in_hand()
    assert len(node.running) == 2
    assert first not in node.running
    other.go_on()
    assert world.states(first, second) == ["SUCCEEDED", "ENQUEUED"]
    assert node.dispatcher.rung.is_set()
    node.settle()
    assert (first, node.engine.claims[first].token) not in node.dispatcher.in_hand()
    assert other.calls == []


def test_one_call_at_a_time_and_what_ends_meanwhile_goes_with_the_next(world, node, other):
    first, second = node.running
    node.ended(first)
    node.settle()
    node.ended(second)
    node.settle()
    assert len(other.calls) == 1
    other.go_on()
    assert world.states(first, second) == ["SUCCEEDED", "ENQUEUED"]
    node.settle()
    other.go_on()
    assert world.states(first, second) == ["SUCCEEDED", "SUCCEEDED"]


def test_ends_that_could_not_be_written_are_kept(world, node, other, monkeypatch):
    settle, answers = world.store.settle, [StoreUnavailable("sqlite://", "gone")]

    def broken(verdicts, *taker):
        if answers:
            raise answers.pop()
        return settle(verdicts)

    monkeypatch.setattr(world.store, "settle", broken)
    pauses: list[float] = []
    [first, _] = node.running
    node.ended(first)
    node.settle()
    other.go_on()
    with monkeypatch.context() as patch:
        patch.setattr(node.dispatcher.rung, "wait", pauses.append)
        assert node.dispatcher.guarded_step() is False
    assert pauses == [0.05]
    assert not node.dispatcher.is_idle
    assert (first, node.engine.claims[first].token) in node.dispatcher.in_hand()
    node.settle()
    other.go_on()
    assert world.states(first) == ["SUCCEEDED"]


def test_what_must_be_written_before_an_end_is(world, node, other):
    """The last progress of a run, and that an operator revoked it: a work given back must not run again."""
    first, second = node.running
    node.began(first)
    node.engine.news.append((node.engine.claims[first], '{"percent":99}'))
    node.ended(first)
    node.dispatcher.revoked(node.engine.claims[second])
    node.ended(second, Ending.GIVEN_BACK, -1)
    node.settle()
    assert world.info(first).progress == {"percent": 99}
    assert world.states(second) == ["CANCELLED"]
    other.go_on()
    assert world.states(first, second) == ["SUCCEEDED", "CANCELLED"]


def test_ends_that_wait_for_a_slow_store_hold_claims_back(world, other):
    world.enqueue(40)
    node = world.node(concurrency=2, most=8, aside=other.calls.append)
    node.learn()
    node.join()
    begun = 0
    while node.running:
        begun += len(node.running)
        for each in node.running:
            node.ended(each, seconds=0.0001)
        node.settle()
    assert begun == MOST_HELD * 8
    assert len(other.calls) == 1
    other.go_on()
    node.settle()
    assert node.running


def test_a_node_that_ends_waits_for_what_is_under_way_and_writes_the_rest(world):
    """In a real thread, which is held inside the first call until the second one asks."""
    world.enqueue(2)
    node = world.node(concurrency=2, aside=Messenger("aside").post).join()
    settle, inside, go_on = world.store.settle, threading.Event(), threading.Event()
    batches: list[list[str]] = []

    def slow(verdicts, *taker):
        batches.append([verdict.id for verdict in verdicts])
        inside.set()
        assert go_on.wait(20)
        return settle(verdicts)

    world.store.settle = slow
    first, second = node.running
    node.ended(first)
    node.settle()
    assert inside.wait(20)
    threading.Timer(0.05, go_on.set).start()
    node.dispatcher.abandon(StopReason.SYSTEM_PROCESSING)
    assert batches == [[first], [second]]
    assert world.states(first, second) == ["SUCCEEDED", "ENQUEUED"]
    assert node.dispatcher.is_idle


def test_a_full_node_that_is_fed_looks_again_in_a_moment(world):
    world.enqueue(60)
    node = world.node(concurrency=2, most=16)
    node.learn()
    node.join()
    assert len(node.running) == 16
    looks: list[int] = []
    look = world.store.look

    def counted(known):
        looks.append(len(node.running))
        return look(known)

    world.store.look = counted
    for each in node.running[:7]:
        node.ended(each, seconds=0.0001)
        node.settle()
    assert (looks, len(node.running)) == ([], 9)
    world.advance(LOOK_AGAIN)
    node.settle()
    assert (looks[0], len(node.running)) == (9, 16)


def test_it_looks_as_soon_as_half_of_them_have_ended(world):
    world.enqueue(60)
    node = world.node(concurrency=2, most=16)
    node.learn()
    node.join()
    for each in node.running[:7]:
        node.ended(each, seconds=0.0001)
        node.settle()
    assert len(node.running) == 9
    node.ended(node.running[0], seconds=0.0001)
    node.settle()
    assert len(node.running) == 16


def test_a_pool_that_has_grown_is_fed_at_once(world):
    ids = world.enqueue(4)
    node = world.node(concurrency=2).join()
    node.settle()
    assert node.running == ids[:2]
    node.engine.concurrency = 3
    node.settle()
    assert node.running == ids[:3]
