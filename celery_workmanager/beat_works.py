"""Entries of a `beat_schedule` whose task is a Worker: each is a durable periodic work of its own.

What a periodic work can't say (a schedule of one's own, ``expires``, callbacks, arguments made at each run) stays an
entry that beat fires: then each fire is a durable one-time work, and its id keeps it from being enqueued twice.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from celery.beat import BeatLazyFunc, ScheduleEntry
from celery.schedules import crontab
from celery.schedules import schedule as Interval  # noqa: N812  # elsewhere in Celery this word means more
from sqlalchemy import Connection

from celery_workmanager.beat_entries import stored_name
from celery_workmanager.calls import request_from_call
from celery_workmanager.errors import InvalidRequest, StoreError, UniqueNameBusy, WorkManagerError
from celery_workmanager.periodic import PeriodicWorkRequest
from celery_workmanager.policies import ExistingPeriodicWorkPolicy
from celery_workmanager.requests import OneTimeWorkRequest
from celery_workmanager.store.scheduling import Contents

__all__ = ("Works", "periodic_of", "unique_name", "zone_of")

logger = logging.getLogger(__name__)

#: Options of a call that no periodic work has.
_OF_ONE_CALL = {
    "link", "link_error", "chain", "chord", "countdown", "eta", "expires", "task_id", "expedited", "input_merger",
}  # fmt: skip
_SHORTEST = timedelta(seconds=1)


def unique_name(entry: str) -> str:
    """The unique name of the work that an entry stands for."""
    return stored_name(f"beat:{entry}")


def zone_of(app: Any) -> str | None:
    """The IANA name of the app's time zone; ``None`` when it has another kind of one."""
    name = getattr(app.timezone, "key", None) or str(app.timezone)
    return "UTC" if name in ("UTC", "utc") else name if "/" in name else None


def periodic_of(entry: ScheduleEntry, task: Any, now: datetime) -> PeriodicWorkRequest | None:
    """The periodic work that an entry of the Worker `task` stands for; ``None``: beat has to fire it.

    Raises InvalidRequest for arguments that don't fit the task, or aren't JSON.
    """
    schedule = entry.schedule
    if not _can_be_kept(schedule) or not _can_be_said(entry, task):
        return None
    is_crontab = isinstance(schedule, crontab)
    zone = zone_of(entry.app) if is_crontab else None
    if is_crontab and zone is None:
        return None
    options = {**entry.options, "headers": {**(entry.options.get("headers") or {}), "celery_beat_task": True}}
    try:
        call = request_from_call(task, entry.args or (), entry.kwargs or {}, options, now)
    except (TypeError, WorkManagerError) as error:
        raise InvalidRequest(f"entry {entry.name!r} of beat_schedule", "a call of its task", str(error)) from error
    if isinstance(call.deadline, datetime):
        return None
    # As in Celery the first interval has to pass first.
    delay = timedelta(0) if is_crontab else schedule.run_every
    return periodic_from(call, schedule=schedule, timezone=zone, initial_delay=delay)


def periodic_from(call: OneTimeWorkRequest, **times: Any) -> PeriodicWorkRequest:
    """The same call again and again; `times` say when."""
    return PeriodicWorkRequest(
        call.worker_name,
        call.input_data.to_dict(),
        tags=call.tags,
        backoff_policy=call.backoff_policy,
        backoff_delay=call.backoff_delay,
        keep_results_for_at_least=call.keep_results_for_at_least,
        trace_tag=call.trace_tag,
        queue=call.queue,
        priority=call.priority,
        time_limit=call.time_limit,
        soft_time_limit=call.soft_time_limit,
        max_attempts=call.max_attempts,
        constraints=call.constraints,
        deadline=call.deadline,  # type: ignore[arg-type]  # a duration
        concurrency=call.concurrency,
        rate=call.rate,
        call=call.call,
        **times,
    )


def _can_be_kept(schedule: Any) -> bool:
    if schedule.nowfun is not None:
        return False
    if type(schedule) is Interval:
        return not schedule.relative and schedule.run_every >= _SHORTEST
    return type(schedule) is crontab


def _can_be_said(entry: ScheduleEntry, task: Any) -> bool:
    given = {name for name, value in entry.options.items() if value is not None}
    values = (*(entry.args or ()), *(entry.kwargs or {}).values())
    is_lazy = any(isinstance(value, BeatLazyFunc) for value in values)
    return not (given & _OF_ONE_CALL) and not is_lazy and getattr(task, "expires", None) is None


class Works:
    """The entries of an app that stand for works, made so in the store by whichever beat holds the schedule."""

    def __init__(self, manager: Any, requests: Mapping[str, PeriodicWorkRequest]) -> None:
        self._manager = manager
        self.requests = requests

    def write(self, connection: Connection, contents: Contents) -> None:
        """Cancel those that are in the configuration no more, and store or update the others."""
        for name in contents.gone_works:
            self._manager.cancel_unique_work(unique_name(name), connection)
        for name, request in self.requests.items():
            try:
                self._manager.enqueue_unique_periodic_work(
                    unique_name(name), ExistingPeriodicWorkPolicy.UPDATE, request, connection
                )
            except (StoreError, UniqueNameBusy):
                raise
            except WorkManagerError as error:
                # One entry that can't be must not stop the others.
                logger.error("beat: entry %r is left out: %s", name, error)  # noqa: TRY400
