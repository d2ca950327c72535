"""A node that runs nothing: it promotes on time without polling, hears the bell, outlives its store, ends at once."""

from __future__ import annotations

import json
import threading
import time

import pytest

from celery_workmanager.clock import SystemClock
from celery_workmanager.errors import StoreUnavailable
from celery_workmanager.settings import Settings
from celery_workmanager.store.leasing import BEAT
from celery_workmanager.timekeeper import Timekeeper
from tests.stores import job, make_store, put, row, wait_until


@pytest.fixture
def keeper_of(store_address):
    """Make timekeepers of this store, by the real clock, that would sleep for minutes if nothing woke them."""
    stores, made = [], []

    def make(*, lease=600.0, longest=300.0):
        store = make_store(store_address)
        store.clock = SystemClock()
        stores.append(store)
        settings = Settings(store_url=store_address, lease=lease, poll_interval=300)
        keeper = Timekeeper(
            store, store.clock, settings, name="celerybeat@here", facts=lambda: {"kind": BEAT}, longest=longest
        )
        made.append(keeper)
        return keeper, store

    yield make
    for keeper in made:
        keeper.stop()
    for store in stores:
        store.close()


def is_ready(store, work_id):
    return row(store, work_id).ready_lane is not None


def settled(keeper):
    """Started, and asleep."""
    keeper.start()
    wait_until(lambda: keeper.node)
    return keeper


def test_a_delayed_work_is_promoted_at_its_moment(keeper_of):
    keeper, store = keeper_of()
    put(store, job("later", initial_delay=1.5))
    due = row(store, "later").due_at
    settled(keeper)
    wait_until(lambda: is_ready(store, "later"), seconds=20)
    assert due <= store.clock.now()


def test_it_is_woken_when_something_earlier_is_enqueued(keeper_of, store_address):
    keeper, store = keeper_of()
    put(store, job("much-later", initial_delay=3600))
    settled(keeper)
    producer = make_store(store_address)
    producer.clock = store.clock
    try:
        put(producer, job("soon", initial_delay=0.5))
    finally:
        producer.close()
    wait_until(lambda: is_ready(store, "soon"), seconds=20)
    assert not is_ready(store, "much-later")


def test_it_tells_that_it_runs_nothing_and_says_goodbye(keeper_of):
    keeper, store = keeper_of()
    settled(keeper)
    (node,) = store.nodes()
    assert (node.id, node.name, node.runs_works) == (keeper.node, "celerybeat@here", False)
    assert json.loads(node.facts) == {"kind": "beat"}
    keeper.stop()
    assert store.nodes() == []


def test_it_ends_at_once_however_long_it_would_sleep(keeper_of):
    keeper, _ = keeper_of()
    settled(keeper)
    begun = time.monotonic()
    keeper.stop()
    assert time.monotonic() - begun < 3
    names = {thread.name for thread in threading.enumerate() if thread.is_alive()}
    assert not names & {"workmanager-lease", "workmanager-upkeep"}


def test_a_beat_that_was_declared_lost_goes_on_under_a_new_identity(keeper_of):
    keeper, store = keeper_of(lease=1.0)
    settled(keeper)
    before = keeper.node
    store.unregister(before)
    wait_until(lambda: keeper.node != before)
    wait_until(lambda: [node.id for node in store.nodes()] == [keeper.node])


def test_lost_nodes_are_healed_by_a_beat_too(keeper_of):
    keeper, store = keeper_of(lease=0.5)
    other, _ = keeper_of(lease=0.5)
    other.renew()  # and never again
    settled(keeper)
    wait_until(lambda: other.node not in {node.id for node in store.nodes()})


def test_a_store_that_is_away_is_tried_again_and_waited_for_by_nobody(keeper_of, monkeypatch):
    keeper, store = keeper_of()

    def away():
        raise StoreUnavailable("store", "gone")

    assert keeper.guarded(lambda: 7, "A duty") == 7
    assert keeper.guarded(away, "A duty") is None
    assert keeper.outage.is_on
    keeper.node = "somebody"
    monkeypatch.setattr(store, "unregister", away)
    keeper.stop()  # would raise, or wait, if it asked the store now


def test_a_defect_in_a_duty_ends_nothing(keeper_of, caplog):
    keeper, _ = keeper_of()

    def broken():
        raise ZeroDivisionError

    assert keeper.guarded(broken, "A duty") is None
    assert "A duty failed" in caplog.text
    assert not keeper.outage.is_on
