"""Requests as rows: most hold nothing but what they must, and take the short way."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import timedelta
from typing import Any

import pytest

from celery_workmanager.call import Call
from celery_workmanager.constraints import Constraints
from celery_workmanager.limits import Limit, Rate
from celery_workmanager.mergers import ArrayCreatingInputMerger
from celery_workmanager.policies import BackoffPolicy, OutOfQuotaPolicy
from celery_workmanager.requests import OneTimeWorkRequest
from celery_workmanager.settings import Settings
from celery_workmanager.store import rows
from celery_workmanager.terms import Terms
from celery_workmanager.timing import SECOND
from tests.stores import every

LIMITS = Terms.of(Settings()).limits
#: What a row has columns for.
_COLUMNS = {"worker_name", "input_data", "id", "queue", "expires", "deadline"}
_OTHERWISE: dict[str, Any] = {
    "call": Call("{}"),
    "tags": {"red"},
    "initial_delay": 1,
    "backoff_policy": BackoffPolicy.LINEAR,
    "backoff_delay": 31,
    "keep_results_for_at_least": 1,
    "trace_tag": "trace",
    "priority": 1,
    "time_limit": 1,
    "soft_time_limit": 1,
    "max_attempts": 1,
    "input_merger": ArrayCreatingInputMerger,
    "expedited": OutOfQuotaPolicy.RUN_AS_NON_EXPEDITED_WORK_REQUEST,
    "constraints": Constraints(node_labels=("zone=here",)),
    "concurrency": Limit("oven", 1),
    "rate": Rate("oven", 1, per=1),
}


@pytest.mark.parametrize("option", [each.name for each in fields(OneTimeWorkRequest) if each.name not in _COLUMNS])
def test_every_option_is_stored(option: str):
    """Also one that a later version adds: it must be in this list."""
    request = OneTimeWorkRequest("bake", **{option: _OTHERWISE[option]})
    found = rows.options_of(request, LIMITS)
    assert len(found) == 1
    assert rows.options_of(OneTimeWorkRequest("bake"), LIMITS) == {}


def test_a_period_is_an_option():
    assert "period" in rows.options_of(every(), LIMITS)


@pytest.mark.parametrize(("bound", "seconds"), [("min_backoff", 31), ("max_backoff", 29)])
def test_a_default_that_the_profile_does_not_allow_is_stored_as_it_allows(bound: str, seconds: int):
    limits = replace(LIMITS, **{bound: timedelta(seconds=seconds)})  # type: ignore[arg-type]
    assert rows.options_of(OneTimeWorkRequest("bake"), limits) == {"backoff_delay": seconds * SECOND}
