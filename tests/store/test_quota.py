"""The quota of expedited works: spent at the claim, refilled by time, and what either policy makes of none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from celery_workmanager.errors import InvalidSetting
from celery_workmanager.lanes import LIMIT, lane_of
from celery_workmanager.limits import Limit
from celery_workmanager.outcome import Ending
from celery_workmanager.policies import OutOfQuotaPolicy
from celery_workmanager.settings import Settings
from celery_workmanager.store import Store
from celery_workmanager.store.quotas import OUT_OF_QUOTA
from celery_workmanager.timing import SECOND
from celery_workmanager.work import State, StopReason, WorkError
from tests.stores import QUEUE, WORKER, end, enqueue, info, job, make_store, move, put, row, rows_of, step, take, twin

RUN: dict[str, Any] = {"expedited": OutOfQuotaPolicy.RUN_AS_NON_EXPEDITED_WORK_REQUEST}
DROP: dict[str, Any] = {"expedited": OutOfQuotaPolicy.DROP_WORK_REQUEST}


@pytest.fixture
def quota(store: Store) -> Iterator[Store]:
    """A store of which two expedited works may start in a minute, and one with the tag "images"."""
    made = twin(store, expedited_quota={"": (2, 60), "tag:images": (1, 60)})
    yield made
    made.close()


def ids(store: Store, most: int = 10) -> list[str]:
    return [claim.id for claim in take(store, most)]


def test_without_a_quota_there_is_any_number(store: Store):
    put(store, *(job(each, **DROP) for each in "abcd"))
    assert ids(store) == [*"abcd"]
    assert rows_of(store, "limit") == 0


def test_out_of_quota_a_work_is_expedited_no_more(quota: Store):
    put(quota, *(job(each, **RUN) for each in "abc"), job("urgent", priority=9), "plain")
    assert ids(quota) == ["a", "b", "urgent", "plain"]
    assert (info(quota, "c").state, row(quota, "c").urgency) == (State.ENQUEUED, row(quota, "plain").urgency)
    # It has lost its privilege, so it needs no quota.
    assert ids(quota) == ["c"]


def test_out_of_quota_a_work_is_dropped_with_all_that_follows(quota: Store):
    put(quota, *(job(each, **DROP) for each in "abc"))
    enqueue(quota, step("d", after=("c",)))
    assert ids(quota) == ["a", "b"]
    dropped = info(quota, "c")
    assert (dropped.state, dropped.stop_reason) == (State.CANCELLED, StopReason.QUOTA)
    assert dropped.error == WorkError.from_json(OUT_OF_QUOTA)
    assert info(quota, "d").state is State.CANCELLED


def test_quota_comes_back_with_time(quota: Store):
    put(quota, job("a", **DROP), job("b", **DROP))
    assert ids(quota) == ["a", "b"]
    move(quota, 30 * SECOND)
    put(quota, job("c", **DROP), job("d", **DROP))
    assert ids(quota) == ["c"]
    assert info(quota, "d").state is State.CANCELLED


def test_a_tag_has_a_quota_of_its_own_within_the_apps(quota: Store):
    put(quota, job("a", tags={"images"}, **DROP), job("b", tags={"images"}, **DROP), job("c", **DROP), job("d", **DROP))
    assert ids(quota) == ["a", "c"]
    move(quota, 60 * SECOND)
    put(quota, job("e", **DROP), job("f", **DROP), job("g", tags={"images"}, **DROP))
    assert ids(quota) == ["e", "f"]
    assert info(quota, "g").state is State.CANCELLED


def test_the_name_of_a_worker_is_one_of_its_tags(store: Store):
    made = twin(store, expedited_quota={f"tag:{WORKER}": (1, 60)})
    put(made, job("a", **DROP), job("b", **DROP))
    assert ids(made) == ["a"]
    made.close()


def test_a_retry_is_not_expedited_and_spends_nothing(quota: Store):
    put(quota, job("a", backoff_delay=1, **DROP))
    (a,) = take(quota)
    end(quota, a, ending=Ending.RETRY)
    put(quota, job("b", **DROP))
    move(quota, 2 * SECOND)
    assert ids(quota) == ["b", "a"]


def test_a_work_under_a_limit_that_is_out_of_quota_makes_room(quota: Store):
    one: dict[str, Any] = {"concurrency": Limit("oven", 1)}
    put(quota, job("x", **RUN), job("y", **RUN))
    take(quota)
    put(quota, job("a", **DROP, **one), job("b", **one))
    lanes = [lane_of(QUEUE, WORKER, "", LIMIT)]
    assert quota.claim_limited(lanes, "node", 7, 5) == []
    assert info(quota, "a").state is State.CANCELLED
    assert [claim.id for claim in quota.claim_limited(lanes, "node", 8, 5)] == ["b"]


@pytest.mark.parametrize(
    "value",
    [5, {"images": (1, 60)}, {"": 5}, {"": (0, 60)}, {"": (1, 0)}, {"tag:": (1, 60)}, {7: (1, 60)}, {"": (1, 60, 2)}],
)
def test_a_quota_that_cannot_be_is_refused(value: Any):
    with pytest.raises(InvalidSetting, match="expedited_quota"):
        Settings(expedited_quota=value)


def test_a_quota_of_another_process_is_the_same_one(quota: Store):
    other = make_store(
        quota.database.url.render_as_string(hide_password=False),
        clock=quota.clock,  # type: ignore[arg-type]
        expedited_quota={"": (2, 60)},
    )
    put(quota, *(job(each, **DROP) for each in "abc"))
    assert ids(quota, 1) == ["a"]
    assert ids(other) == ["b"]
    assert info(quota, "c").state is State.CANCELLED
    other.close()
