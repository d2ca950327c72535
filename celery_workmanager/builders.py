"""Requests step by step, in the words of WorkManager's builders."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Self

from celery_workmanager.checks import Duration, check_duration, check_text
from celery_workmanager.constraints import Constraints
from celery_workmanager.data import Data
from celery_workmanager.errors import InvalidRequest
from celery_workmanager.ids import check_id
from celery_workmanager.limits import Limit, Rate
from celery_workmanager.mergers import InputMerger
from celery_workmanager.periodic import PeriodicWorkRequest
from celery_workmanager.policies import BackoffPolicy, CatchUp, OutOfQuotaPolicy
from celery_workmanager.requests import OneTimeWorkRequest, worker_name_of


class _Builder:
    """What the builders of both kinds of requests share."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker_name_of(worker)
        self._parts: dict[str, Any] = {}
        self._tags: set[str] = set()

    def _with(self, **parts: Any) -> Self:
        self._parts.update(parts)
        return self

    def set_id(self, id: str | uuid.UUID) -> Self:
        """Set the id of the next request built."""
        return self._with(id=check_id(id))

    def set_input_data(self, data: Mapping[str, Any] | None = None, /, **values: Any) -> Self:
        """Set the work's own input, as a mapping or as keywords."""
        return self._with(input_data=Data.of(data, "input_data", **values))

    def set_initial_delay(self, delay: Duration | None = None, /, **parts: float) -> Self:
        """Set the delay before the first run: a duration, or ``timedelta``'s keywords (``seconds=60``)."""
        return self._with(initial_delay=_duration("initial_delay", delay, parts))

    def set_backoff_criteria(self, policy: BackoffPolicy, delay: Duration | None = None, /, **parts: float) -> Self:
        """Set how the delay before a retry grows, and the first one."""
        return self._with(backoff_policy=policy, backoff_delay=_duration("backoff_delay", delay, parts))

    def keep_results_for_at_least(self, duration: Duration | None = None, /, **parts: float) -> Self:
        """Set how long the finished work is kept at least."""
        name = "keep_results_for_at_least"
        return self._with(keep_results_for_at_least=_duration(name, duration, parts))

    def add_tag(self, tag: str) -> Self:
        """Add a tag."""
        self._tags.add(check_text("tag", tag))
        return self

    def set_trace_tag(self, tag: str) -> Self:
        """Set the name of the trace span; it is cut at 127 characters."""
        return self._with(trace_tag=tag)

    def set_queue(self, queue: str) -> Self:
        """Set the Celery queue whose workers may run it."""
        return self._with(queue=queue)

    def set_priority(self, priority: int) -> Self:
        """Set the priority: 0 to 255, 255 is the most urgent."""
        return self._with(priority=priority)

    def set_time_limit(self, seconds: Duration) -> Self:
        """Set Celery's hard time limit of each run."""
        return self._with(time_limit=seconds)

    def set_soft_time_limit(self, seconds: Duration) -> Self:
        """Set Celery's soft time limit of each run."""
        return self._with(soft_time_limit=seconds)

    def set_constraints(self, constraints: Constraints) -> Self:
        """Set what must hold while it is started and runs."""
        return self._with(constraints=constraints)

    def set_deadline(self, deadline: Duration | datetime) -> Self:
        """Set from when on it may run even if its constraints are not met: a duration, or an aware ``datetime``."""
        return self._with(deadline=deadline)

    def set_concurrency(self, key: str, n: int) -> Self:
        """Set how many works with a key run at once in the whole fleet."""
        return self._with(concurrency=Limit(key, n))

    def set_rate(self, key: str, n: int, per: Duration) -> Self:
        """Set how many works with a key start in a while in the whole fleet."""
        return self._with(rate=Rate(key, n, per))

    def set_max_attempts(self, attempts: int) -> Self:
        """Set how often it may run before a retry becomes a failure."""
        return self._with(max_attempts=attempts)


class OneTimeWorkRequestBuilder(_Builder):
    """Collects the parts of a request step by step (WorkManager semantics: OneTimeWorkRequest.Builder).

    It can build several requests; each gets an id of its own.
    """

    def build(self) -> OneTimeWorkRequest:
        """Check and freeze; raises InvalidRequest."""
        request = OneTimeWorkRequest(self._worker, tags=self._tags, **self._parts)
        self._parts.pop("id", None)
        return request

    def set_input_merger(self, merger: type[InputMerger]) -> Self:
        """Set how own input and outputs of prerequisites are put together."""
        return self._with(input_merger=merger)

    def set_expedited(self, policy: OutOfQuotaPolicy = OutOfQuotaPolicy.RUN_AS_NON_EXPEDITED_WORK_REQUEST) -> Self:
        """Mark it as important to the user."""
        return self._with(expedited=policy)

    def set_expires(self, expires: Duration | datetime) -> Self:
        """Set when it must have started: a duration after the enqueue, or an aware ``datetime``."""
        return self._with(expires=expires)


class PeriodicWorkRequestBuilder(_Builder):
    """Collects the parts of a periodic request (WorkManager semantics: PeriodicWorkRequest.Builder).

    Either `repeat_interval` (with `flex_interval`), or one of Celery's schedules by `set_schedule`.
    """

    def __init__(
        self, worker: Any, repeat_interval: Duration | None = None, flex_interval: Duration | None = None
    ) -> None:
        super().__init__(worker)
        self._with(repeat_interval=repeat_interval, flex_interval=flex_interval)

    def build(self) -> PeriodicWorkRequest:
        """Check and freeze; raises InvalidRequest."""
        request = PeriodicWorkRequest(self._worker, tags=self._tags, **self._parts)
        self._parts.pop("id", None)
        return request

    def set_schedule(self, schedule: Any, timezone: str | None = None) -> Self:
        """Set the moments of its runs: Celery's ``crontab`` (on the clocks of `timezone`) or ``schedule``."""
        return self._with(schedule=schedule, timezone=timezone)

    def set_fixed_rate(self, fixed_rate: bool = True) -> Self:
        """Let the runs follow each other at the interval, however long each takes."""
        return self._with(fixed_rate=fixed_rate)

    def set_flex_every_period(self, flex_every_period: bool = True) -> Self:
        """Let each run be due when the last `flex_interval` of its period begins, not only the first one."""
        return self._with(flex_every_period=flex_every_period)

    def set_catch_up(self, policy: CatchUp, limit: int | None = None) -> Self:
        """Set what becomes of missed occurrences; `limit`: of how many at most (``CatchUp.ALL``)."""
        return self._with(catch_up=policy, **({} if limit is None else {"catch_up_limit": limit}))

    def set_start_at(self, at: datetime) -> Self:
        """Set the moment before which nothing runs."""
        return self._with(start_at=at)

    def set_end_at(self, at: datetime) -> Self:
        """Set the moment after which no run becomes due."""
        return self._with(end_at=at)

    def set_keep_runs(self, runs: int) -> Self:
        """Set how many past runs are kept."""
        return self._with(keep_runs=runs)

    def set_next_schedule_time_override(self, at: datetime) -> Self:
        """Set the moment of the next run only, whatever interval, flex, delay and backoff say."""
        return self._with(next_schedule_time_override=at, clear_next_schedule_time_override=False)

    def clear_next_schedule_time_override(self) -> Self:
        """Take away a moment that an earlier request has set (of an update)."""
        return self._with(next_schedule_time_override=None, clear_next_schedule_time_override=True)


def _duration(what: str, duration: Duration | None, parts: dict[str, float]) -> timedelta:
    if (duration is None) == (not parts):
        raise InvalidRequest(what, "either a duration or timedelta's keywords", (duration, parts))
    if not parts:
        return check_duration(what, duration)
    try:
        duration = timedelta(**parts)
    except (OverflowError, TypeError, ValueError):
        raise InvalidRequest(what, "a duration in timedelta's keywords", parts) from None
    return check_duration(what, duration)
