"""What django-celery-beat keeps in its tables, as periodic works: a way over, to be walked once.

A row whose task is a Worker becomes a periodic work of that worker; of an ordinary task one of the built-in worker
that sends its message at each period.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from celery_workmanager.beat_works import periodic_from, unique_name, zone_of
from celery_workmanager.calls import request_from_call
from celery_workmanager.canvas_graph import PUBLISH_WORKER
from celery_workmanager.canvas_parts import plain
from celery_workmanager.errors import InvalidRequest, NoSchedules, WorkManagerError
from celery_workmanager.periodic import PeriodicWorkRequest

__all__ = ("Imported", "plan", "rows")

#: Celery's own housekeeping, which every beat adds to its schedule by itself.
_OF_EVERY_BEAT = "celery.backend_cleanup"


@dataclass(frozen=True, slots=True)
class Imported:
    """A row and the work it becomes; without one `said` is why, with one what the work leaves out ("": nothing)."""

    name: str
    task: str
    request: PeriodicWorkRequest | None
    said: str = ""

    @property
    def unique_name(self) -> str:
        """The unique name of its work."""
        return unique_name(self.name)

    @property
    def is_message(self) -> bool:
        """Whether each run sends a message."""
        return self.request is not None and self.request.worker_name == PUBLISH_WORKER


def rows() -> list[Any]:
    """All of django-celery-beat's PeriodicTasks, by name. Raises NoSchedules."""
    try:
        from django.db import Error  # noqa: PLC0415  # projects without Django have none
        from django_celery_beat.models import PeriodicTask  # noqa: PLC0415
    except Exception as error:
        # Not installed, or Django isn't set up, or the app isn't among the installed ones: each raises something else.
        raise NoSchedules(error) from error
    chosen = PeriodicTask.objects.select_related("interval", "crontab", "solar", "clocked")
    try:
        return list(chosen.order_by("name"))
    except Error as error:
        raise NoSchedules(error) from error


def plan(app: Any, tasks: Iterable[Any], now: datetime) -> list[Imported]:
    """What each of django-celery-beat's PeriodicTasks becomes; `now` is aware. Nothing is stored."""
    configured = set(map(str, app.conf.beat_schedule or ()))
    found = []
    for task in tasks:
        why_not = _why_not(task, configured, now)
        if why_not:
            found.append(Imported(task.name, task.task, None, why_not))
            continue
        try:
            found.append(_imported(app, task, now))
        except (TypeError, ValueError, WorkManagerError) as error:
            found.append(Imported(task.name, task.task, None, str(error)))
    return found


def _why_not(task: Any, configured: set[str], now: datetime) -> str:
    expired = task.expires is not None and _aware(task.expires) <= now
    reasons = {
        "it is in beat_schedule, from which beat takes it": task.name in configured,
        "every beat has it by itself": task.name == _OF_EVERY_BEAT,
        "it is disabled": not task.enabled,
        "it runs once: enqueue it as one-time work with an initial_delay": task.one_off or task.clocked_id is not None,
        "a solar schedule can't be kept: put it into beat_schedule": task.solar_id is not None,
        "it has expired": expired,
        "it has no schedule": task.interval_id is None and task.crontab_id is None,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _imported(app: Any, row: Any, now: datetime) -> Imported:
    args, kwargs, headers = (_json(row, name) for name in ("args", "kwargs", "headers"))
    options = {name: getattr(row, name) for name in ("queue", "exchange", "routing_key", "priority")}
    options = {name: value for name, value in options.items() if value is not None}
    options["headers"] = {**(headers or {}), "periodic_task_name": row.name, "celery_beat_task": True}
    task = app.tasks.get(row.task)
    said = ""
    if getattr(task, "is_durable_worker", False):
        call = request_from_call(task, args or (), kwargs or {}, options, now)
        if row.expire_seconds is not None:
            said = "its expire_seconds: a run that is late isn't given up, but one run stands for all that were missed"
    else:
        if row.expire_seconds is not None:
            options["expires"] = row.expire_seconds
        call = _message(app, row.task, args, kwargs, options, now)
    return Imported(row.name, row.task, periodic_from(call, **_times(app, row)), said)


def _message(app: Any, task: str, args: Any, kwargs: Any, options: Mapping[str, Any], now: datetime) -> Any:
    """The call of the built-in worker that sends a message of `task`."""
    parts = {"args": list(args or ()), "kwargs": dict(kwargs or {}), "options": dict(options)}
    signature = plain(app.signature(task, immutable=True))
    # Its own arguments come with the call: a signature that has none takes them.
    signature["immutable"] = False
    return request_from_call(app.tasks[PUBLISH_WORKER], (), {"signature": signature, **parts}, {}, now)


def _times(app: Any, row: Any) -> dict[str, Any]:
    """When the work runs: in the rhythm the row had."""
    end = None if row.expires is None else _aware(row.expires)
    start = None if row.start_time is None else _aware(row.start_time)
    schedule = row.schedule
    if row.crontab_id:
        zone = str(row.crontab.timezone) if hasattr(schedule, "tz") and row.crontab.timezone else zone_of(app)
        return {"schedule": schedule, "timezone": zone, "start_at": start, "end_at": end}
    every: timedelta = schedule.run_every
    if start is None and row.last_run_at is not None:
        start = _aware(row.last_run_at) + every
    delay = every if start is None else timedelta(0)
    return {"schedule": schedule, "start_at": start, "end_at": end, "initial_delay": delay}


def _aware(at: datetime) -> datetime:
    # Without USE_TZ Django's moments are naive, in the zone of its settings, which is that of the process.
    return at.astimezone(UTC)


def _json(row: Any, name: str) -> Any:
    text = getattr(row, name) or "null"
    try:
        return json.loads(text)
    except ValueError:
        raise InvalidRequest(name, "JSON", text) from None
