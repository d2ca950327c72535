"""A run that replaced its work: the work becomes the last of a sub-graph and runs again, as another call.

Source: Celery, ``Task.replace``: the replacement takes the id, so all that waits for the work goes on waiting for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, case, delete, insert, update

from celery_workmanager.events import Change
from celery_workmanager.lifecycle import Move, leaves
from celery_workmanager.news import note
from celery_workmanager.planning import Step, plan_insertion
from celery_workmanager.requests import OneTimeWorkRequest
from celery_workmanager.store.inserting import insert_works, new_event
from celery_workmanager.store.rows import ready_columns, spec_columns
from celery_workmanager.tables import edge, state_in, work
from celery_workmanager.terms import Terms
from celery_workmanager.timing import first_run_at, micros
from celery_workmanager.wire import request_from_json
from celery_workmanager.work import State, StopReason


def replace_work(connection: Connection, work_id: str, token: int, replacement: str, now: int, terms: Terms) -> None:
    """Write the sub-graph of `replacement` (JSON), whose last work is this one; its row is locked already."""
    entries: list[dict[str, Any]] = json.loads(replacement)
    queues = {entry["request"]["id"]: entry["queue"] for entry in entries}
    own = next(entry for entry in entries if entry["request"]["id"] == work_id)
    parents = list(dict.fromkeys(own["parents"]))
    request, state = _request(own), State.BLOCKED if parents else State.ENQUEUED
    _become(connection, own, request, token, len(parents), now, terms)
    note(connection, Change.BLOCKED if parents else Change.ENQUEUED, [new_event(request, state)])
    steps = [Step((_request(each),), tuple(each["parents"])) for each in entries if each is not own]
    insertion = plan_insertion(steps, {}, {work_id: State.BLOCKED})
    insert_works(connection, insertion, lambda request: queues[request.id], now, terms)
    connection.execute(delete(edge).where(edge.c.child == work_id))
    if parents:
        edges = [{"parent": each, "child": work_id, "position": place} for place, each in enumerate(parents)]
        connection.execute(insert(edge), edges)
        connection.execute(update(work).where(work.c.id.in_(parents)).values(has_children=1))


def _request(entry: Mapping[str, Any]) -> OneTimeWorkRequest:
    return request_from_json(entry["worker"], entry["request"])


def _become(
    connection: Connection,
    own: Mapping[str, Any],
    request: OneTimeWorkRequest,
    token: int,
    waits_for: int,
    now: int,
    terms: Terms,
) -> None:
    spec = spec_columns(request, own["queue"], now, terms)
    values: dict[str, Any] = {
        **spec,
        "state": int(State.BLOCKED if waits_for else State.ENQUEUED),
        "waits_for": waits_for or None,
        "has_parents": int(bool(waits_for)),
        "enqueued_at": None if waits_for else now,
        "ready_lane": None,
        "due_at": None,
        "run_attempt_count": 0,
        "interruptions": 0,
        "runs": work.c.runs,
        "stop_reason": int(StopReason.NOT_STOPPED),
        "progress": None,
        "error": None,
        "node": None,
        "token": None,
        "version": work.c.version + 1,
    }
    if not waits_for:
        values |= ready_columns(first_run_at(now, micros(request.initial_delay)), spec["lane"], now)
        if values["ready_lane"] is not None:
            values["ready_lane"] = case((work.c.held.is_(None), spec["lane"]), else_=None)
    if own.get("has_children"):
        values["has_children"] = 1
    guarded = update(work).where(work.c.id == request.id, work.c.token == token, state_in(leaves(Move.REPLACE)))
    connection.execute(guarded.values(**values))
