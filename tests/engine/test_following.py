"""A node goes on with what its ends unblock, as long as nothing else waits."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from kombu.utils.limits import TokenBucket

from celery_workmanager.errors import StoreUnavailable


@pytest.fixture
def looks(world, monkeypatch) -> list[str]:
    """What nodes ask the store for, in order."""
    asked: list[str] = []

    def counted(name: str) -> Callable[..., object]:
        call = getattr(world.store, name)

        def counting(*args, **options):
            asked.append(name)
            return call(*args, **options)

        return counting

    for name in ("look", "claim", "settle"):
        monkeypatch.setattr(world.store, name, counted(name))
    return asked


def rest(world, length: int = 3, **options):
    """A node that runs the first of a chain and has seen that nothing else waits."""
    ids = world.chain(length)
    node = world.node(**options).join()
    node.settle()
    assert node.running == ids[:1]
    return ids, node


def test_a_link_is_taken_without_a_claim(world, looks):
    ids, node = rest(world)
    looks.clear()
    node.ended(ids[0])
    node.settle()
    assert node.running == [ids[1]]
    assert node.engine.claims[ids[1]].node == node.dispatcher.node
    assert looks == ["look", "settle", "look"]
    node.ended(ids[1])
    node.settle()
    node.ended(ids[2])
    node.settle()
    assert world.states(*ids) == ["SUCCEEDED"] * 3
    assert "claim" not in looks


def test_a_node_without_room_leaves_it_to_others(world):
    ids, node = rest(world, concurrency=2)
    node.engine.concurrency = 0
    node.ended(ids[0])
    node.settle()
    assert node.running == []
    assert world.node().join().running == [ids[1]]


@pytest.mark.parametrize("why", ["closed", "lost", "frozen"])
def test_a_node_that_may_not_claim_takes_nothing(world, why: str):
    ids, node = rest(world)
    if why == "closed":
        node.dispatcher.close_to_new()
    elif why == "lost":
        node.dispatcher.lost()
    else:
        world.advance(16)
    node.ended(ids[0])
    node.settle()
    assert node.running == []
    assert world.states(ids[1]) == ["ENQUEUED"]


def test_a_worker_with_a_rate_limit_is_claimed_as_its_tokens_come(world):
    bucket = TokenBucket(1.0, 1)
    ids, node = rest(world, bucket_of=lambda _: bucket)
    assert not bucket.can_consume(1)
    node.ended(ids[0])
    node.settle()
    assert (node.running, world.states(ids[1])) == ([], ["ENQUEUED"])


# -- when other ends are written aside ---------------------------------------------------------------------------


@pytest.fixture
def calls() -> list[Callable[[], None]]:
    return []


def test_a_link_is_written_at_once_and_the_next_one_begins_without_a_look(world, looks, calls):
    ids, node = rest(world, aside=calls.append)
    node.wait(5.0)
    node.settle()
    for before, after in pairwise(ids):
        looks.clear()
        node.ended(before)
        node.settle()
        assert (node.running, looks, calls) == ([after], ["settle"], [])
    looks.clear()
    node.ended(ids[-1])
    node.settle()
    assert (looks, len(calls)) == ([], 1)
    calls.pop()()
    node.settle()
    assert looks == ["settle", "look"]
    assert world.states(*ids) == ["SUCCEEDED"] * len(ids)


def test_what_a_link_leaves_is_looked_for(world, looks, calls):
    """A parent of three, on a node that runs two at once."""
    parent, *children = world.fan(3)
    node = world.node(concurrency=2, aside=calls.append).join()
    node.settle()
    node.wait(5.0)
    node.settle()
    looks.clear()
    node.ended(parent)
    node.settle()
    assert (node.running, looks) == (children[:2], ["settle", "look", "claim"])
    assert not node.dispatcher.sees_nothing


def test_an_end_behind_others_that_are_under_way_waits_for_them(world, calls):
    ids, node = rest(world, aside=calls.append)
    (other,) = world.enqueue()
    node.settle()
    node.ended(other)
    node.settle()
    node.ended(ids[0])
    node.settle()
    assert (len(calls), world.states(ids[0], other)) == (1, ["ENQUEUED", "ENQUEUED"])
    calls.pop()()
    node.settle()
    assert (calls, node.running) == ([], [ids[1]])
    assert world.states(ids[0], other) == ["SUCCEEDED", "SUCCEEDED"]


def test_what_waits_and_is_more_urgent_goes_first(world, calls):
    ids, node = rest(world, concurrency=1, aside=calls.append)
    urgent = world.enqueue(priority=9)
    node.settle()
    node.ended(ids[0])
    node.settle()
    calls.pop()()
    node.settle()
    assert node.running == urgent
    assert world.states(*ids[:2]) == ["SUCCEEDED", "ENQUEUED"]


def test_claims_are_taken_though_ends_after_them_could_not_be_written(world, calls, monkeypatch):
    ids, node = rest(world, aside=calls.append)
    settle = world.store.settle

    def once(verdicts, taker):
        monkeypatch.setattr(world.store, "settle", away)
        return settle(verdicts, taker)

    def away(*_):
        raise StoreUnavailable("sqlite://", "gone")

    monkeypatch.setattr(world.store, "settle", once)
    node.ended(ids[0])
    node.ended(ids[0])  # an end of the same work can't be in the same batch
    with pytest.raises(StoreUnavailable):
        node.dispatcher.step()
    assert node.running == [ids[1]]


def test_a_node_that_is_lost_meanwhile_gives_them_back(world, monkeypatch):
    ids, node = rest(world)
    settle = world.store.settle

    def lost_behind_it(verdicts, taker):
        done = settle(verdicts, taker)
        node.dispatcher.lost()
        return done

    monkeypatch.setattr(world.store, "settle", lost_behind_it)
    node.ended(ids[0])
    node.settle()
    assert node.engine.batches == [[ids[0]]]
    assert world.node().join().running == [ids[1]]
