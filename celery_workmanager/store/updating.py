"""Changing the specification of an unfinished work in place, and running a finished one again.

Source: WorkManager, ``WorkManager.updateWork``: state, attempts, the moment of enqueue, names and edges stay.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from celery_workmanager.bell import ring
from celery_workmanager.bounds import check_keys
from celery_workmanager.database import locking
from celery_workmanager.errors import InvalidRequest, UnsupportedOperation, WorkNotFound
from celery_workmanager.events import Change, WorkEvent
from celery_workmanager.lanes import lane_with
from celery_workmanager.lifecycle import state_at_insertion
from celery_workmanager.news import note
from celery_workmanager.outcome import Standing
from celery_workmanager.periodic import PeriodicWorkRequest
from celery_workmanager.periods import Periodicity, moment_after_update, run_moment
from celery_workmanager.policies import UpdateResult
from celery_workmanager.requests import WorkRequest
from celery_workmanager.store.marks import held_as_stored
from celery_workmanager.store.rows import EMPTY, first_period, period_deadline, ready_columns, spec_columns
from celery_workmanager.store.upserts import insert_or_ignore
from celery_workmanager.tables import edge, member, tag, work
from celery_workmanager.terms import Terms, backoff_of, backoff_wait
from celery_workmanager.timing import as_datetime, moment, next_run_at
from celery_workmanager.work import State, StopReason


def _locked(connection: Connection, work_id: str) -> Any:
    row = connection.execute(locking(select(work).where(work.c.id == work_id), connection)).first()
    if row is None:
        raise WorkNotFound(work_id)
    return row


def update_work(
    connection: Connection, request: WorkRequest, queue: str, now: int, terms: Terms, *, work_id: str | None = None
) -> UpdateResult:
    """Replace the specification of the unfinished work with the id of `request`, or `work_id`.

    Raises WorkNotFound, UnsupportedOperation for one-time work that is to be periodic or the other way round.
    """
    row = _locked(connection, work_id or request.id)
    if State(row.state).is_finished:
        return UpdateResult.NOT_APPLIED
    if isinstance(request, PeriodicWorkRequest) != (row.period_at is not None):
        kinds = ("one-time", "periodic") if row.period_at is None else ("periodic", "one-time")
        raise UnsupportedOperation(f"{kinds[0]} work {row.id} can't be updated to {kinds[1]} work")
    if not row.has_parents:
        check_keys(request)
    # A period until it expires counts from the first enqueue, as its delay counts from the last one.
    spec = spec_columns(request, queue, row.created_at, terms)
    values: dict[str, Any] = {**spec, "generation": row.generation + 1, "version": row.version + 1}
    is_claimed = row.token is not None
    _relabel(connection, row.id, request)
    # A paused unique name has held it before: without a mark and without tags there is nothing to look at.
    may_be_held = row.held is not None or bool(request.tags - {request.worker_name})
    values["held"] = 1 if may_be_held and held_as_stored(connection, [row.id]) else None
    if not is_claimed:
        values |= {"progress": None, "error": None, "stop_reason": int(StopReason.NOT_STOPPED)}
    if isinstance(request, PeriodicWorkRequest):
        values |= _override_columns(row, request)
    if row.state == State.ENQUEUED and not is_claimed:
        values |= _next_columns(row, values, now, terms) | {"parked_by": None}
    elif row.finished_at is not None:
        # The run has ended its period itself and goes on: the moment of the next one is known, but it isn't due yet.
        values |= _next_columns(row, values, now, terms) | {"due_at": None, "ready_lane": None}
    values |= period_deadline(json.loads(values["options"]), values.get("run_at", row.run_at))
    connection.execute(update(work).where(work.c.id == row.id).values(**values))
    return UpdateResult.APPLIED_FOR_NEXT_RUN if is_claimed else UpdateResult.APPLIED_IMMEDIATELY


def _relabel(connection: Connection, work_id: str, request: WorkRequest) -> None:
    connection.execute(delete(tag).where(tag.c.work == work_id))
    labels = [{"work": work_id, "tag": label} for label in sorted(request.tags - {request.worker_name})]
    if labels:
        connection.execute(insert_or_ignore(tag, connection), labels)


def _override_columns(row: Any, request: PeriodicWorkRequest) -> dict[str, Any]:
    at = request.next_schedule_time_override
    if at is None and not request.clear_next_schedule_time_override:
        return {}
    return {
        "override_at": None if at is None else moment(at),
        "override_generation": row.override_generation + 1,
    }


def _next_columns(row: Any, values: dict[str, Any], now: int, terms: Terms) -> dict[str, Any]:
    """When a waiting work runs by its new specification: delays go on counting from where they did."""
    options = json.loads(values["options"])
    attempts = row.run_attempt_count if row.finished_at is None else 0
    if row.period_at is None:
        run_at = next_run_at(enqueued_at=row.enqueued_at, attempts=attempts, **backoff_of(options, terms.limits))
        return ready_columns(run_at, values["lane"], now, held=values["held"])
    before = json.loads(row.options)
    old, new = (Periodicity.of(each) or Periodicity() for each in (before, options))
    override_at = values.get("override_at", row.override_at)
    delays = before.get("initial_delay", 0), options.get("initial_delay", 0)
    at = moment_after_update(old, new, Standing(row.period_count, row.period_at), row.enqueued_at, delays)
    if at is None and override_at is None:
        raise InvalidRequest("end_at", "late enough for one more run", as_datetime(new.end))
    standing = Standing(row.period_count, override_at or 0 if at is None else at, override_at)
    wait = backoff_wait(options, terms.limits, attempts)
    run_at = run_moment(standing, row.enqueued_at, attempts, wait, terms.limits)
    return {"period_at": standing.at, **ready_columns(run_at, values["lane"], now, held=values["held"])}


def retry_work(connection: Connection, work_id: str, new_id: str, now: int) -> None:
    """Enqueue a finished work again as `new_id`: same specification, names, tags and prerequisites.

    Raises WorkNotFound, InvalidRequest when it isn't finished, UnsupportedOperation when a prerequisite didn't succeed.
    """
    row = _locked(connection, work_id)
    if not State(row.state).is_finished:
        raise InvalidRequest("work to retry", "finished", State(row.state).name)
    prerequisites = (
        select(edge.c.parent, edge.c.position, work.c.state)
        .join(work, work.c.id == edge.c.parent)
        .where(edge.c.child == work_id)
        .order_by(edge.c.position)
    )
    # Locked, so that none is pruned while the new work begins to depend on it.
    parents = connection.execute(locking(prerequisites, connection, of=work)).all()
    if state_at_insertion(State(parent.state) for parent in parents) is not State.ENQUEUED:
        message = f"work {work_id} cannot be retried by itself: a prerequisite has not succeeded; retry that one"
        raise UnsupportedOperation(message)
    # Labels come first: see `store.marks`.
    _copy_labels(connection, work_id, new_id)
    held = 1 if held_as_stored(connection, [new_id]) else None
    connection.execute(insert(work), _as_new(row, new_id, now, held))
    note(connection, Change.ENQUEUED, [WorkEvent(new_id, row.worker, State.ENQUEUED)])
    if parents:
        edges = [{"parent": each.parent, "child": new_id, "position": each.position} for each in parents]
        connection.execute(insert(edge), edges)


def _copy_labels(connection: Connection, work_id: str, new_id: str) -> None:
    for table, label in ((tag, tag.c.tag), (member, member.c.name)):
        copied = connection.execute(select(label).where(table.c.work == work_id)).scalars().all()
        if copied:
            connection.execute(insert(table), [{"work": new_id, label.name: each} for each in copied])


def _as_new(row: Any, new_id: str, now: int, held: int | None) -> dict[str, Any]:
    options = json.loads(row.options)
    again = {} if row.period_at is None else first_period(options, None, now)
    run_at = again.get("period_at", now)
    lane = lane_with(row.queue, row.worker, options)
    return {
        **{column.name: getattr(row, column.name) for column in work.columns},
        "id": new_id,
        "state": int(State.ENQUEUED),
        **again,
        "lane": lane,
        "deadline_at": options.get("deadline"),
        **period_deadline(options, run_at),
        **ready_columns(run_at, lane, now, held=held),
        "held": held,
        "expires_at": None,
        "node": None,
        "token": None,
        "run_attempt_count": 0,
        "runs": 0,
        "interruptions": 0,
        "generation": 0,
        "stop_reason": int(StopReason.NOT_STOPPED),
        "waits_for": None,
        "has_children": 0,
        "created_at": now,
        "enqueued_at": now,
        "started_at": None,
        "finished_at": None,
        "prune_at": None,
        "version": 1,
        "retry_of": row.id,
        "output": None,
        "progress": None,
        "error": None,
    }


def make_due(connection: Connection, work_id: str, now: int) -> bool:
    """Let a work wait no longer for its moment; ``False`` when it doesn't (it may be claimed, or runs already).

    A BLOCKED one loses its initial delay. Raises WorkNotFound, InvalidRequest when it is finished.
    """
    row = _locked(connection, work_id)
    state = State(row.state)
    if state.is_finished:
        raise InvalidRequest("work to run now", "unfinished (`retry` runs a finished one again)", state.name)
    options = json.loads(row.options)
    mine = update(work).where(work.c.id == work_id, work.c.state == row.state)
    if state is State.BLOCKED and options.pop("initial_delay", 0):
        change = mine.values(options=json.dumps(options) if options else EMPTY)
    elif state is State.ENQUEUED and row.due_at is not None:
        change = mine.where(work.c.due_at.is_not(None), work.c.node.is_(None)).values(
            ready_columns(now, row.lane, now, held=row.held)
        )
    else:
        return False
    changed = connection.execute(change.values(version=work.c.version + 1)).rowcount == 1
    if changed:
        ring(connection)
    return changed
