"""What happens to an expedited work between its claim and the look at the quota, which are two commits.

The node that finds no quota is the loser each time: it puts back what is still its own, as it is by then.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from celery_workmanager.outcome import Claim
from celery_workmanager.pauses import PauseTarget
from celery_workmanager.policies import OutOfQuotaPolicy, UpdateResult
from celery_workmanager.store import Store, pausing, quotas
from celery_workmanager.store.rows import LEAST_URGENT
from celery_workmanager.timing import SECOND
from celery_workmanager.work import State
from tests.stores import QUEUE, info, job, move, put, register, row, take, take_one, twin

RUN: dict[str, Any] = {"expedited": OutOfQuotaPolicy.RUN_AS_NON_EXPEDITED_WORK_REQUEST}


@pytest.fixture
def quota(store: Store) -> Iterator[Store]:
    """A store with a quota that is spent."""
    made = twin(store, expedited_quota={"": (1, 60)})
    put(made, job("first", **RUN))
    assert [claim.id for claim in take(made)] == ["first"]
    yield made
    made.close()


def refuse(store: Store, claim: Claim) -> None:
    """The second commit of a claim that is out of quota; other things may have come in between."""
    now, bounds = store.clock.now(), store.terms.expedited_quota
    assert store.database.run(lambda connection: quotas.spend(connection, [claim], bounds, now)) == [claim]
    store.database.run(lambda connection: quotas.refuse(connection, claim, now, store.terms))


def test_what_was_paused_since_its_claim_is_put_back_and_stays_paused(quota: Store, store: Store):
    put(quota, job("a", tags=["red"], **RUN))
    claim = take_one(store, "a")
    target = PauseTarget.of(tag="red")
    assert pausing.pause(quota, target)
    refuse(quota, claim)
    assert (row(quota, "a").token, row(quota, "a").ready_lane) == (None, None)
    assert take(quota) == []
    assert pausing.resume(quota, target)
    assert [claim.id for claim in take(quota)] == ["a"]


def test_what_is_no_longer_expedited_keeps_its_urgency(quota: Store, store: Store):
    put(quota, job("a", **RUN))
    claim = take_one(store, "a")
    assert quota.update(job("a"), QUEUE) is UpdateResult.APPLIED_FOR_NEXT_RUN
    refuse(quota, claim)
    assert row(quota, "a").urgency == LEAST_URGENT


def test_what_was_healed_since_its_claim_is_left_to_its_new_node(quota: Store, store: Store):
    put(quota, job("a", **RUN))
    register(quota, "slow", lease=SECOND)
    claim = take_one(store, "a", "slow")
    move(quota, 2 * SECOND)
    assert quota.heal(quota.clock.now()) is not None
    again = take_one(store, "a", "quick")
    refuse(quota, claim)
    assert quota.owned("quick") == {"a": again.token}
    assert info(quota, "a").state is State.ENQUEUED


def test_what_was_cancelled_since_its_claim_stays_cancelled(quota: Store, store: Store):
    put(quota, job("a", **RUN))
    claim = take_one(store, "a")
    quota.cancel("a")
    refuse(quota, claim)
    assert (info(quota, "a").state, row(quota, "a").ready_lane) == (State.CANCELLED, None)
