"""A node that has seen nothing claims at a ring without a look."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kombu.utils.limits import TokenBucket

from celery_workmanager.constraints import Constraints
from tests.engine.scripted import Node, World
from tests.stores import emptied


@pytest.fixture
def bakery(postgresql_store_url: str) -> Iterator[World]:
    """A world on PostgreSQL."""
    made = World(url=emptied(postgresql_store_url))
    yield made
    made.store.close()


@pytest.fixture
def asked(bakery: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What nodes ask the store for, in order."""
    found: list[str] = []
    for name in ("look", "claim", "claim_promptly"):
        call = getattr(bakery.store, name)

        def noted(*args, name=name, call=call, **options):
            found.append(name)
            return call(*args, **options)

        monkeypatch.setattr(bakery.store, name, noted)
    return found


def ring(node: Node) -> bool:
    """The bell rings, and the dispatcher turns once."""
    node.dispatcher.prompt.was_rung = True
    return node.dispatcher.step()


def test_a_ring_leads_to_a_claim_without_a_look(bakery: World, asked: list[str]):
    node = bakery.node().join()
    asked.clear()
    ids = bakery.enqueue()
    assert not ring(node)
    assert (node.running, asked) == (ids, ["claim_promptly"])
    assert node.dispatcher.sees_nothing


def test_without_a_ring_it_looks(bakery: World, asked: list[str]):
    node = bakery.node().join()
    ring(node)
    bakery.enqueue()
    asked.clear()
    node.dispatcher.step()
    assert asked == ["look", "claim"]


def test_a_node_that_has_seen_something_looks(bakery: World, asked: list[str]):
    node = bakery.node(concurrency=8).join()
    bakery.enqueue(constraints=Constraints(node_labels=("zone=elsewhere",)))
    node.settle()
    ids = bakery.enqueue()
    asked.clear()
    ring(node)
    assert (node.running, asked) == (ids, ["look", "claim"])
    # That ring has been answered.
    asked.clear()
    node.settle()
    assert asked == ["look"]


def test_it_takes_no_more_than_it_may_and_then_looks(bakery: World, asked: list[str]):
    node = bakery.node(concurrency=2).join()
    ids = bakery.enqueue(3)
    asked.clear()
    ring(node)
    assert (node.running, asked) == (ids[:2], ["claim_promptly", "look"])
    assert not node.dispatcher.sees_nothing


def test_a_try_in_vain_is_the_last_until_a_look_has_led_to_a_claim(bakery: World, asked: list[str]):
    node = bakery.node(concurrency=8).join()
    asked.clear()
    ring(node)
    assert asked == ["claim_promptly", "look"]
    asked.clear()
    ring(node)
    assert asked == ["look"]
    bakery.enqueue()
    ring(node)
    node.settle()
    asked.clear()
    bakery.enqueue()
    ring(node)
    assert asked == ["claim_promptly"]


def test_what_has_a_rate_limit_waits_for_its_tokens(bakery: World, asked: list[str]):
    bucket = TokenBucket(1, capacity=1)
    node = bakery.node(bucket_of=lambda _: bucket).join()
    bucket.can_consume(1)
    bakery.enqueue()
    ring(node)
    assert node.running == []


def test_a_node_without_a_lease_claims_nothing(bakery: World, asked: list[str]):
    node = bakery.node().join()
    bakery.advance(16)
    bakery.enqueue()
    asked.clear()
    ring(node)
    assert (node.running, asked) == ([], [])


def test_a_node_that_serves_nothing_looks(bakery: World, asked: list[str]):
    node = bakery.node().join()
    node.dispatcher._offer.lanes = dict
    asked.clear()
    ring(node)
    assert asked == ["look"]
