"""A machine whose clock is wrong: its node's first lease runs by the database's clock already."""

from __future__ import annotations

import pytest

from celery_workmanager.clock import SystemClock
from celery_workmanager.database import time_of
from celery_workmanager.errors import StoreUnavailable
from celery_workmanager.settings import Settings
from celery_workmanager.timekeeper import Timekeeper
from celery_workmanager.timing import SECOND
from tests.engine.scripted import LEASE, Node
from tests.stores import make_store

SLOW = 3600 * SECOND


@pytest.fixture
def slow(postgresql_store_url):
    """A store as a process has it that has just begun on a machine whose clock is an hour slow."""
    store, clock = make_store(postgresql_store_url), SystemClock()
    clock._offset -= SLOW
    store.clock = clock
    yield store
    for row in store.nodes():
        store.unregister(row.id)
    store.close()


def now_of(store):
    """The time by the database's clock."""
    with store.database.plain() as connection:
        return time_of(connection)


def lease_of(store, node):
    """What is left of it."""
    [row] = [row for row in store.nodes() if row.id == node]
    return (row.lease_until - now_of(store)) / SECOND


def test_nobody_may_take_a_node_for_lost_that_has_just_come(slow):
    node = Node(slow, slow.clock)
    node.lease.step()
    assert 0 < lease_of(slow, node.lease.node) <= LEASE


def test_nor_one_that_only_keeps_time(slow):
    keeper = Timekeeper(slow, slow.clock, Settings(lease=LEASE), name="beat", facts=dict, longest=1.0)
    keeper.renew()
    assert 0 < lease_of(slow, keeper.node) <= LEASE


def test_a_clock_that_could_not_be_set_at_first_is_set_at_the_next_use(slow, monkeypatch):
    def away():
        raise StoreUnavailable("postgresql://", "gone")

    with monkeypatch.context() as patch:
        patch.setattr(slow, "measure_clock", away)
        with pytest.raises(StoreUnavailable):
            slow.open()
    slow.open()
    assert abs(slow.clock.now() - now_of(slow)) < SLOW / 2
