"""What a user asks for: work that repeats."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from celery_workmanager.call import Call
from celery_workmanager.checks import ZERO, Duration, check_duration, check_moment, check_whole
from celery_workmanager.constraints import Constraints
from celery_workmanager.errors import InvalidRequest
from celery_workmanager.limits import Limit, Rate
from celery_workmanager.mergers import OverwritingInputMerger
from celery_workmanager.policies import BackoffPolicy, CatchUp
from celery_workmanager.requests import DEFAULT_BACKOFF_DELAY, WorkRequest
from celery_workmanager.schedules import Crontab, check_timezone, read_schedule

DEFAULT_CATCH_UP_LIMIT = 100
MOST_CATCH_UPS = 100_000
MOST_RUNS_KEPT = 100_000
UTC_NAME = "UTC"

_set = object.__setattr__


@dataclass(frozen=True, slots=True, init=False)
class PeriodicWorkRequest(WorkRequest):
    """Runs of a worker, one after the other until it is cancelled (WorkManager semantics: PeriodicWorkRequest).

    Exactly one of `repeat_interval` and `schedule` (Celery's ``crontab`` or ``schedule``) says when. A plain interval
    counts from the end of a run, as on Android; a `fixed_rate`, a ``schedule`` and a ``crontab`` don't drift.
    Raises InvalidRequest for what can't be, DataNotStorable for input that isn't JSON. Too short an interval is raised
    at the enqueue, with a warning.
    """

    #: None: a crontab says when.
    repeat_interval: timedelta | None
    #: The last part of a period in which it runs; None: the whole period.
    flex_interval: timedelta | None
    schedule: Crontab | None
    #: On whose clocks a crontab is read.
    timezone: str
    catch_up: CatchUp
    catch_up_limit: int
    fixed_rate: bool
    flex_every_period: bool
    start_at: datetime | None
    end_at: datetime | None
    #: How many past runs are kept; None: as the setting says.
    keep_runs: int | None
    #: The moment of the next run only.
    next_schedule_time_override: datetime | None
    #: Of an update: take away the moment that was set before.
    clear_next_schedule_time_override: bool

    def __init__(  # noqa: PLR0913  # it has as many options as WorkManager and Celery have together
        self,
        worker: Any,
        input_data: Mapping[str, Any] | None = None,
        *,
        repeat_interval: Duration | None = None,
        flex_interval: Duration | None = None,
        schedule: Any = None,
        timezone: str | None = None,
        catch_up: CatchUp = CatchUp.ONCE,
        catch_up_limit: int = DEFAULT_CATCH_UP_LIMIT,
        fixed_rate: bool = False,
        flex_every_period: bool = False,
        start_at: datetime | None = None,
        end_at: datetime | None = None,
        keep_runs: int | None = None,
        next_schedule_time_override: datetime | None = None,
        clear_next_schedule_time_override: bool = False,
        id: str | uuid.UUID | None = None,
        tags: Iterable[str] = (),
        initial_delay: Duration = ZERO,
        backoff_policy: BackoffPolicy = BackoffPolicy.EXPONENTIAL,
        backoff_delay: Duration = DEFAULT_BACKOFF_DELAY,
        keep_results_for_at_least: Duration = ZERO,
        trace_tag: str | None = None,
        queue: str | None = None,
        priority: int = 0,
        time_limit: Duration | None = None,
        soft_time_limit: Duration | None = None,
        max_attempts: int | None = None,
        constraints: Constraints = Constraints.NONE,
        deadline: Duration | None = None,
        concurrency: Limit | None = None,
        rate: Rate | None = None,
        call: Call | None = None,
    ) -> None:
        self._set_what(worker, input_data, id, tags, call)
        self._set_delays(initial_delay, backoff_policy, backoff_delay, keep_results_for_at_least)
        self._set_labels(trace_tag, queue, priority)
        self._set_limits(time_limit, soft_time_limit, max_attempts)
        self._set_conditions(_untriggered(constraints), _no_moment(deadline), concurrency, rate)
        _set(self, "input_merger", OverwritingInputMerger)
        _set(self, "expedited", None)
        _set(self, "expires", None)
        self._set_times(repeat_interval, schedule, timezone, fixed_rate=bool(fixed_rate))
        self._set_flex(flex_interval, flex_every_period=bool(flex_every_period))
        self._set_catch_up(catch_up, catch_up_limit)
        self._set_ends(start_at, end_at)
        self._set_override(next_schedule_time_override, clear=bool(clear_next_schedule_time_override))
        _set(self, "keep_runs", None if keep_runs is None else check_whole("keep_runs", keep_runs, 0, MOST_RUNS_KEPT))

    @property
    def has_occurrences(self) -> bool:
        """Whether its moments are known in advance, whatever its runs take."""
        return self.schedule is not None or self.fixed_rate or self.flex_every_period

    def _set_times(self, interval: Any, schedule: Any, timezone: Any, *, fixed_rate: bool) -> None:
        if (interval is None) == (schedule is None):
            raise InvalidRequest("periodic work", "given either repeat_interval or schedule", (interval, schedule))
        times = check_duration("repeat_interval", interval) if schedule is None else read_schedule(schedule)
        is_crontab = isinstance(times, Crontab)
        _set(self, "repeat_interval", None if is_crontab else times)
        _set(self, "schedule", times if is_crontab else None)
        _set(self, "timezone", UTC_NAME if timezone is None else check_timezone(timezone))
        # Celery's own ``schedule`` counts from start to start.
        _set(self, "fixed_rate", fixed_rate or (schedule is not None and not is_crontab))

    def _set_flex(self, flex: Any, *, flex_every_period: bool) -> None:
        if flex is not None and self.schedule is not None:
            raise InvalidRequest("flex_interval", "given with a repeat_interval only", flex)
        if flex is None and flex_every_period:
            raise InvalidRequest("flex_every_period", "given with a flex_interval only", flex_every_period)
        _set(self, "flex_interval", None if flex is None else check_duration("flex_interval", flex))
        _set(self, "flex_every_period", flex_every_period)

    def _set_catch_up(self, policy: Any, limit: Any) -> None:
        if not isinstance(policy, CatchUp):
            raise InvalidRequest("catch_up", "a CatchUp", policy)
        if policy is not CatchUp.ONCE and not self.has_occurrences:
            raise InvalidRequest("catch_up", "given with a schedule or a fixed rate only", policy)
        _set(self, "catch_up", policy)
        _set(self, "catch_up_limit", check_whole("catch_up_limit", limit, 1, MOST_CATCH_UPS))

    def _set_ends(self, start: Any, end: Any) -> None:
        _set(self, "start_at", None if start is None else check_moment("start_at", start))
        _set(self, "end_at", None if end is None else check_moment("end_at", end))
        if self.start_at is not None and self.end_at is not None and self.end_at < self.start_at:
            raise InvalidRequest("end_at", f"no earlier than start_at, {self.start_at}", self.end_at)

    def _set_override(self, at: Any, *, clear: bool) -> None:
        if at is not None and clear:
            raise InvalidRequest("next_schedule_time_override", "either given or cleared", at)
        moment = None if at is None else check_moment("next_schedule_time_override", at)
        _set(self, "next_schedule_time_override", moment)
        _set(self, "clear_next_schedule_time_override", clear)


def _untriggered(constraints: Any) -> Any:
    # As WorkManager's platform has it: JobInfo.Builder.build.
    if isinstance(constraints, Constraints) and constraints.content_uri_triggers:
        raise InvalidRequest("periodic work", "without content_uri_triggers", constraints)
    return constraints


def _no_moment(deadline: Any) -> Any:
    if isinstance(deadline, datetime):
        raise InvalidRequest("deadline", "a duration: that of periodic work counts from each run's moment", deadline)
    return deadline


def with_periodic(requests: Any) -> tuple[WorkRequest, ...] | None:
    """The requests when there is periodic work among them: it has no place in a chain."""
    if isinstance(requests, PeriodicWorkRequest):
        return (requests,)
    if not isinstance(requests, (list, tuple)):
        return None
    if not any(issubclass(kind, PeriodicWorkRequest) for kind in set(map(type, requests))):
        return None
    for each in requests:
        if not isinstance(each, WorkRequest):
            raise InvalidRequest(None, "a OneTimeWorkRequest or a PeriodicWorkRequest", each)
    return tuple(requests)
