"""What a user asks for: what every request holds, and the one-time request."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, TypeVar

from celery_workmanager.call import Call
from celery_workmanager.checks import (
    ZERO,
    Duration,
    check_duration,
    check_moment,
    check_text,
    check_time_limit,
    check_whole,
)
from celery_workmanager.constraint_checks import check_constraints, warn_of
from celery_workmanager.constraints import Constraints
from celery_workmanager.data import Data
from celery_workmanager.errors import InvalidRequest
from celery_workmanager.ids import check_id, new_id
from celery_workmanager.limits import Limit, Rate
from celery_workmanager.mergers import InputMerger, OverwritingInputMerger, check_merger
from celery_workmanager.policies import BackoffPolicy, OutOfQuotaPolicy

DEFAULT_BACKOFF_DELAY = timedelta(seconds=30)
_DEFAULT_BACKOFF = (BackoffPolicy.EXPONENTIAL, DEFAULT_BACKOFF_DELAY)
HIGHEST_PRIORITY = 255
#: Longer trace tags are cut (WorkManager semantics: WorkRequest.Builder.setTraceTag).
LONGEST_TRACE_TAG = 127

_E = TypeVar("_E")
_MISSING = object()
_set = object.__setattr__


def worker_name_of(worker: Any) -> str:
    """Return the name under which Celery registers a worker: of a task, a Worker class or the name itself."""
    name = worker if isinstance(worker, str) else getattr(worker, "name", _MISSING)
    if name is None and isinstance(worker, type):
        name = _generated_name(worker)
    if not isinstance(name, str):
        raise InvalidRequest("worker", "a Worker task, a Worker class or a worker's name", worker)
    return check_text("worker name", name)


def _generated_name(worker: type) -> str:
    # A task class without a name gets one when it is registered; its app knows which (scripts are special).
    generate = getattr(getattr(worker, "app", None), "gen_task_name", None)
    if generate is None:
        return f"{worker.__module__}.{worker.__name__}"
    return str(generate(worker.__name__, worker.__module__))


@dataclass(frozen=True, slots=True, init=False)
class WorkRequest:
    """What every request holds (WorkManager semantics: WorkRequest).

    Durations are ``timedelta`` or seconds. The shortest and longest backoff are settings of the store's side.
    """

    worker_name: str
    input_data: Data
    id: str
    #: Always with the worker's name.
    tags: frozenset[str]
    initial_delay: timedelta
    backoff_policy: BackoffPolicy
    backoff_delay: timedelta
    keep_results_for_at_least: timedelta
    trace_tag: str | None
    queue: str | None
    #: 0 to 255, 255 is the most urgent.
    priority: int
    #: Seconds until a run's process is killed, as in Celery.
    time_limit: float | None
    #: Seconds until SoftTimeLimitExceeded is raised in a run, as in Celery.
    soft_time_limit: float | None
    max_attempts: int | None
    #: Periodic work has no other: its input is its own.
    input_merger: type[InputMerger]
    #: Only of one-time work.
    expedited: OutOfQuotaPolicy | None
    #: Not started by then (a duration counts from the enqueue): never started. Only of one-time work.
    expires: timedelta | datetime | None
    constraints: Constraints
    #: From then on it may run even if its constraints are not met. A duration counts from the enqueue; that of periodic
    #: work, which has no other, from the moment of each run (JobScheduler, ``setOverrideDeadline``).
    deadline: timedelta | datetime | None
    concurrency: Limit | None
    rate: Rate | None
    #: A Celery task call, instead of input data.
    call: Call | None = field(repr=False)

    def _set_what(self, worker: Any, input_data: Any, id: Any, tags: Any, call: Any) -> None:
        name = worker_name_of(worker)
        _set(self, "worker_name", name)
        _set(self, "input_data", Data.of(input_data, "input_data"))
        _set(self, "id", new_id() if id is None else check_id(id))
        _set(self, "tags", _only(name) if tags == () else _tags(name, tags))
        if call is not None and not isinstance(call, Call):
            raise InvalidRequest("call", "a Call", call)
        _set(self, "call", call)

    def _set_delays(self, initial: Duration, policy: BackoffPolicy, backoff: Duration, keep: Duration) -> None:
        _set(self, "initial_delay", ZERO if initial is ZERO else check_duration("initial_delay", initial))
        _set(self, "backoff_policy", _member("backoff_policy", BackoffPolicy, policy))
        default = backoff is DEFAULT_BACKOFF_DELAY
        _set(self, "backoff_delay", backoff if default else check_duration("backoff_delay", backoff))
        keep = ZERO if keep is ZERO else check_duration("keep_results_for_at_least", keep)
        _set(self, "keep_results_for_at_least", keep)

    def _set_labels(self, trace_tag: Any, queue: Any, priority: Any) -> None:
        _set(self, "trace_tag", None if trace_tag is None else _trace_tag(trace_tag))
        _set(self, "queue", None if queue is None else check_text("queue", queue))
        _set(self, "priority", check_whole("priority", priority, 0, HIGHEST_PRIORITY))

    def _set_conditions(
        self,
        constraints: Any,
        deadline: Any,
        concurrency: Any,
        rate: Any,
        *,
        is_expedited: bool = False,
        delay: timedelta = ZERO,
    ) -> None:
        _set(self, "constraints", Constraints.of(constraints))
        _set(self, "deadline", None if deadline is None else _moment_or_duration("deadline", deadline))
        _set(self, "concurrency", None if concurrency is None else Limit.of(concurrency))
        _set(self, "rate", None if rate is None else Rate.of(rate))
        if self.constraints:
            has_backoff = (self.backoff_policy, self.backoff_delay) != _DEFAULT_BACKOFF
            check_constraints(self.constraints, has_backoff=has_backoff, is_expedited=is_expedited)
            warn_of(self.constraints, self.deadline, delay)

    def _set_limits(self, hard: Any, soft: Any, max_attempts: Any) -> None:
        _set(self, "time_limit", None if hard is None else check_time_limit("time_limit", hard))
        _set(self, "soft_time_limit", None if soft is None else check_time_limit("soft_time_limit", soft))
        attempts = None if max_attempts is None else check_whole("max_attempts", max_attempts, 1)
        _set(self, "max_attempts", attempts)


@dataclass(frozen=True, slots=True, init=False)
class OneTimeWorkRequest(WorkRequest):
    """One run of a worker (WorkManager semantics: OneTimeWorkRequest).

    Raises InvalidRequest for what can't be, DataNotStorable for input that isn't JSON.
    """

    def __init__(  # noqa: PLR0913  # it has as many options as WorkManager and Celery have together
        self,
        worker: Any,
        input_data: Mapping[str, Any] | None = None,
        *,
        id: str | uuid.UUID | None = None,
        tags: Iterable[str] = (),
        initial_delay: Duration = ZERO,
        backoff_policy: BackoffPolicy = BackoffPolicy.EXPONENTIAL,
        backoff_delay: Duration = DEFAULT_BACKOFF_DELAY,
        input_merger: type[InputMerger] = OverwritingInputMerger,
        expedited: OutOfQuotaPolicy | None = None,
        keep_results_for_at_least: Duration = ZERO,
        trace_tag: str | None = None,
        queue: str | None = None,
        priority: int = 0,
        time_limit: Duration | None = None,
        soft_time_limit: Duration | None = None,
        expires: Duration | datetime | None = None,
        max_attempts: int | None = None,
        constraints: Constraints = Constraints.NONE,
        deadline: Duration | datetime | None = None,
        concurrency: Limit | None = None,
        rate: Rate | None = None,
        call: Call | None = None,
    ) -> None:
        self._set_what(worker, input_data, id, tags, call)
        self._set_delays(initial_delay, backoff_policy, backoff_delay, keep_results_for_at_least)
        self._set_labels(trace_tag, queue, priority)
        self._set_limits(time_limit, soft_time_limit, max_attempts)
        self._set_conditions(
            constraints, deadline, concurrency, rate, is_expedited=expedited is not None, delay=self.initial_delay
        )
        _set(self, "input_merger", _merger(input_merger))
        _set(self, "expedited", None if expedited is None else self._checked_expedited(expedited))
        _set(self, "expires", None if expires is None else _moment_or_duration("expires", expires))

    def _checked_expedited(self, policy: OutOfQuotaPolicy) -> OutOfQuotaPolicy:
        if self.initial_delay:
            raise InvalidRequest("expedited work", "without an initial delay", self.initial_delay)
        return _member("expedited", OutOfQuotaPolicy, policy)


def _member(what: str, kind: type[_E], value: Any) -> _E:
    if isinstance(value, kind):
        return value
    raise InvalidRequest(what, f"a {kind.__name__}", value)


def _merger(merger: type[InputMerger]) -> type[InputMerger]:
    return merger if merger is OverwritingInputMerger else check_merger(merger)


@lru_cache(maxsize=1024)
def _only(worker_name: str) -> frozenset[str]:
    # One for all: what is made for each of many requests is what the garbage collector goes through.
    return frozenset((worker_name,))


def _tags(worker_name: str, tags: Any) -> frozenset[str]:
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        raise InvalidRequest("tags", "a collection of str", tags)
    return frozenset((worker_name, *(check_text("tag", tag) for tag in tags)))


def _trace_tag(tag: Any) -> str:
    if not isinstance(tag, str):
        raise InvalidRequest("trace_tag", "a str", tag)
    return check_text("trace_tag", tag[:LONGEST_TRACE_TAG])


def _moment_or_duration(what: str, value: Any) -> timedelta | datetime:
    if isinstance(value, datetime):
        return check_moment(what, value)
    return check_duration(what, value)


def one_time(requests: Any) -> tuple[OneTimeWorkRequest, ...]:
    """Return the request or the requests given as a tuple that is not empty."""
    several = any_number(requests)
    if not several:
        raise InvalidRequest(None, "at least one request", requests)
    return several


def any_number(requests: Any) -> tuple[OneTimeWorkRequest, ...]:
    """Return the request or the requests given, if any, as a tuple."""
    if isinstance(requests, OneTimeWorkRequest):
        return (requests,)
    if isinstance(requests, (str, Mapping)):
        raise InvalidRequest(None, "a OneTimeWorkRequest or several", requests)
    try:
        several = tuple(requests)  # Celery's tasks are proxies, which claim to be iterable
    except TypeError:
        raise InvalidRequest(None, "a OneTimeWorkRequest or several", requests) from None
    for request in several:
        if not isinstance(request, OneTimeWorkRequest):
            raise InvalidRequest(None, "a OneTimeWorkRequest", request)
    return several
