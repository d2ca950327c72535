"""What operators revoked, on its way into the store."""

from __future__ import annotations

import pytest

from celery_workmanager.outcome import Ending
from celery_workmanager.revocations import CHUNK, Revocations
from celery_workmanager.work import StopReason

USER, BY_APP = StopReason.USER, StopReason.CANCELLED_BY_APP


def test_revoked_works_are_cancelled_and_so_is_all_that_needs_them(world):
    first, second = world.chain()
    (other,) = world.enqueue()
    revocations = Revocations(world.store)
    revocations.add([first, "nobody's"], BY_APP)
    assert not revocations.is_empty
    revocations.write()
    assert world.states(first, second, other) == ["CANCELLED", "CANCELLED", "ENQUEUED"]
    assert revocations.is_empty


def test_what_a_finished_work_has_unblocked_goes_on(world):
    first, second = world.chain()
    node = world.node().join()
    node.ended(first)
    node.dispatcher.closed = True
    node.dispatcher.accepting = False
    node.settle()
    revocations = Revocations(world.store)
    revocations.add([first], BY_APP)
    revocations.write()
    assert world.states(first, second) == ["SUCCEEDED", "ENQUEUED"]


@pytest.mark.parametrize("reason", [USER, BY_APP])
def test_a_running_one_knows_why(world, reason):
    (work_id,) = world.enqueue()
    node = world.node().join()
    node.began(work_id)
    world.advance(1)
    node.settle()
    revocations = Revocations(world.store)
    revocations.add([work_id], reason)
    revocations.write()
    assert (world.info(work_id).state.name, world.info(work_id).stop_reason) == ("CANCELLED", reason)
    node.ended(work_id, Ending.STOPPED, reason=reason)
    node.settle()
    assert world.info(work_id).stop_reason is reason


def test_tags_are_looked_up_when_they_are_written_however_many_carry_them(world):
    revocations = Revocations(world.store)
    revocations.add_tags(["customer=7", "customer=8"], BY_APP)
    many = world.enqueue(CHUNK + 3, tags={"customer=7"}, initial_delay=60)
    few = world.enqueue(2, tags={"customer=8"}, initial_delay=60)
    others = world.enqueue(2, tags={"customer=9"}, initial_delay=60)
    revocations.write()
    assert set(world.states(*many, *few)) == {"CANCELLED"}
    assert set(world.states(*others)) == {"ENQUEUED"}
    assert revocations.is_empty
