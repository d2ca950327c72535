"""Requests as rows: what of a request becomes a column, and what an entry of the options."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any

from celery_workmanager.errors import InvalidRequest
from celery_workmanager.lanes import lane_with
from celery_workmanager.lifecycle import FINISHED
from celery_workmanager.mergers import OverwritingInputMerger, merger_path
from celery_workmanager.periodic import PeriodicWorkRequest
from celery_workmanager.periods import Periodicity, first_moment, period_option
from celery_workmanager.requests import DEFAULT_BACKOFF_DELAY, OneTimeWorkRequest, WorkRequest
from celery_workmanager.settings import Limits
from celery_workmanager.terms import DEFAULT_BACKOFF, Terms, prune_moment
from celery_workmanager.timing import as_datetime, clamped, first_run_at, micros, moment
from celery_workmanager.work import State, StopReason

LEAST_URGENT = 255
#: Expedited works come before all others; a retry loses the privilege (WorkManager, "Expedited work").
EXPEDITED = 256
EMPTY = "{}"
#: What of a request becomes an option unless it is this, as it is in most of them.
_PARTS = attrgetter(
    "call", "initial_delay", "backoff_policy", "backoff_delay", "input_merger", "expedited",
    "keep_results_for_at_least", "trace_tag", "priority", "time_limit", "soft_time_limit", "max_attempts",
    "constraints", "concurrency", "rate",
)  # fmt: skip
_ORDINARY = _PARTS(OneTimeWorkRequest("ordinary"))


def _is_ordinary(request: WorkRequest, limits: Limits) -> bool:
    """Whether `request` has no options at all: a comparison of what it holds with what most hold."""
    return (
        type(request) is OneTimeWorkRequest
        and len(request.tags) == 1
        and _PARTS(request) == _ORDINARY
        and limits.min_backoff <= DEFAULT_BACKOFF_DELAY <= limits.max_backoff
    )


def is_plain(request: WorkRequest, limits: Limits) -> bool:
    """Whether the rows of `request` and of another such, to the same worker, differ in id and input only."""
    return request.expires is None and request.deadline is None and _is_ordinary(request, limits)


def options_of(request: WorkRequest, limits: Limits) -> dict[str, Any]:
    """The options of `request` that differ from their defaults, as JSON values; durations in microseconds."""
    if _is_ordinary(request, limits):
        return {}
    delay = clamped(micros(request.backoff_delay), micros(limits.min_backoff), micros(limits.max_backoff))
    entries: dict[str, Any] = {
        "call": None if request.call is None else request.call.option,
        "initial_delay": micros(request.initial_delay) or None,
        "backoff_policy": int(request.backoff_policy) or None,
        "backoff_delay": None if delay == DEFAULT_BACKOFF else delay,
        "merger": None if request.input_merger is OverwritingInputMerger else merger_path(request.input_merger),
        "expedited": None if request.expedited is None else int(request.expedited),
        "keep": micros(request.keep_results_for_at_least) or None,
        "trace_tag": request.trace_tag,
        "priority": request.priority or None,
        "time_limit": request.time_limit,
        "soft_time_limit": request.soft_time_limit,
        "max_attempts": request.max_attempts,
        "constraints": request.constraints.to_json() if request.constraints else None,
        "concurrency": None if (limit := request.concurrency) is None else [limit.key, limit.n],
        "rate": None if (rate := request.rate) is None else [rate.key, rate.n, micros(rate.per)],
        "tags": sorted(request.tags - {request.worker_name}) or None,
    }
    if isinstance(request, PeriodicWorkRequest):
        entries["period"] = period_option(request, limits)
        entries["deadline_after"] = None if (after := request.deadline) is None else _micros_after(0, after)
    return {key: value for key, value in entries.items() if value is not None}


def urgency_of(request: WorkRequest) -> int:
    """The claiming order: smaller first."""
    return LEAST_URGENT - request.priority - (EXPEDITED if request.expedited is not None else 0)


def expiry_of(request: WorkRequest, now: int) -> int | None:
    """The moment from which the work must not start any more."""
    return None if request.expires is None else _micros_after(now, request.expires)


def _micros_after(now: int, when: timedelta | datetime) -> int:
    return moment(when) if isinstance(when, datetime) else now + micros(when)


def spec_columns(request: WorkRequest, queue: str, now: int, terms: Terms) -> dict[str, Any]:
    """The columns that an enqueue and an update take from `request`."""
    expires_at = expiry_of(request, now)
    options = options_of(request, terms.limits)
    if expires_at is not None:
        options["expires"] = expires_at
    if request.deadline is not None and not isinstance(request, PeriodicWorkRequest):
        options["deadline"] = _micros_after(now, request.deadline)
    return {
        "worker": request.worker_name,
        "queue": queue,
        "lane": lane_with(queue, request.worker_name, options),
        "urgency": urgency_of(request),
        "expires_at": expires_at,
        "deadline_at": options.get("deadline"),
        "options": json.dumps(options) if options else EMPTY,
        "input": request.input_data.to_json() if request.call is None else request.call.arguments,
    }


def ready_columns(run_at: int, lane: int, now: int, *, held: Any = None) -> dict[str, Any]:
    """The columns of an ENQUEUED work: claimable at once, due later, or `held` (paused)."""
    due = run_at > now
    return {"run_at": run_at, "due_at": run_at if due else None, "ready_lane": None if due or held else lane}


#: What is the same in all new works, or is different in few.
_UNTOUCHED = {
    "ready_lane": None,
    "due_at": None,
    "run_attempt_count": 0,
    "runs": 0,
    "interruptions": 0,
    "generation": 0,
    "stop_reason": int(StopReason.NOT_STOPPED),
    "has_children": 0,
    "enqueued_at": None,
    "finished_at": None,
    "prune_at": None,
    "version": 1,
    "retry_of": None,
    "error": None,
}


def new_row(
    request: WorkRequest, queue: str, state: State, now: int, terms: Terms, *, waits_for: int, has_parents: bool
) -> dict[str, Any]:
    """The row of a new work in `state`."""
    row: dict[str, Any] = {
        "id": request.id,
        **spec_columns(request, queue, now, terms),
        **_UNTOUCHED,
        "state": int(state),
        "run_at": now,
        "waits_for": waits_for or None,
        "has_parents": int(has_parents),
        "created_at": now,
    }
    if state is State.ENQUEUED:
        if isinstance(request, PeriodicWorkRequest):
            row |= first_period(json.loads(row["options"]), request.next_schedule_time_override, now)
            run_at = row["period_at"] if row["override_at"] is None else row["override_at"]
            row |= period_deadline(json.loads(row["options"]), run_at)
        else:
            run_at = first_run_at(now, micros(request.initial_delay))
        row.update(ready_columns(run_at, row["lane"], now), enqueued_at=now)
    elif state in FINISHED:
        row |= finished_columns(now, None, json.loads(row["options"]), terms)
    if row["deadline_at"] is None:
        del row["deadline_at"]
    return row


def period_deadline(options: dict[str, Any], run_at: int) -> dict[str, Any]:
    """The columns of a periodic work with a deadline, whose next run is due at `run_at`: it counts from there."""
    if "deadline_after" not in options:
        return {}
    at = run_at + options["deadline_after"]
    return {"deadline_at": at, "options": json.dumps(options | {"deadline": at})}


def first_period(options: dict[str, Any], override: datetime | None, now: int) -> dict[str, Any]:
    """The columns of a periodic work that begins now. Raises InvalidRequest when it would end without a run."""
    period = Periodicity.of(options) or Periodicity()
    at = first_moment(period, now, options.get("initial_delay", 0))
    if at is None and override is None:
        raise InvalidRequest("end_at", "late enough for one run", as_datetime(period.end))
    override_at = None if override is None else moment(override)
    return {
        "period_count": 0,
        "period_at": override_at if at is None else at,
        "override_at": override_at,
        "override_generation": int(override is not None),
    }


def finished_columns(now: int, enqueued_at: int | None, options: dict[str, Any], terms: Terms) -> dict[str, Any]:
    """The columns that every finished work has."""
    return {
        "finished_at": now,
        "prune_at": prune_moment(now, enqueued_at, options, terms),
        "waits_for": None,
        "expires_at": None,
    }
