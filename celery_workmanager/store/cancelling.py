"""Cancelling works with everything downstream of them.

Source: WorkManager, ``CancelWorkRunnable``: unfinished works become CANCELLED, finished ones stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    SmallInteger,
    String,
    Text,
    Update,
    select,
    union,
)

from celery_workmanager.events import Change, WorkEvent
from celery_workmanager.lifecycle import Move, leaves, reaches
from celery_workmanager.news import note
from celery_workmanager.store import aftermath, periods, stops
from celery_workmanager.store.aftermath import bad_end
from celery_workmanager.store.graph import Locked, lock_descendants, lock_works
from celery_workmanager.store.many import Given, Many
from celery_workmanager.tables import member, state_in, tag, work
from celery_workmanager.terms import Terms, prune_moment
from celery_workmanager.work import State, StopReason

_UNFINISHED = leaves(Move.CANCEL)


def _with_cancel(change: Update, given: Given) -> Update:
    return change.where(work.c.id == given["key"], state_in(_UNFINISHED)).values(
        state=int(reaches(Move.CANCEL)),
        stop_reason=given["reason"],
        finished_at=given["at"],
        prune_at=given["prune"],
        error=given["why"],
        output="{}",
        ready_lane=None,
        parked_by=None,
        held=None,
        due_at=None,
        expires_at=None,
        waits_for=None,
        node=None,
        token=None,
        version=work.c.version + 1,
    )


_CANCEL = Many(
    {"key": String, "reason": SmallInteger, "at": BigInteger, "prune": BigInteger, "why": Text}, _with_cancel
)


def cancel_with_descendants(
    connection: Connection,
    roots: Sequence[str],
    now: int,
    terms: Terms,
    *,
    reason: StopReason = StopReason.CANCELLED_BY_APP,
    error: str | None = None,
    change: Change = Change.CANCELLED,
    only_unfinished_roots: bool = False,
    wait: bool = True,
) -> list[str]:
    """Cancel `roots` and all downstream; returns the works that became CANCELLED, in id order.

    A finished root stays as it is, but what it unblocked is cancelled too, unless `only_unfinished_roots`. `change`:
    what the roots are told to be; what is downstream of them is cancelled.
    Without `wait`, rows that others hold raise HeldByOthers before anything is written.
    """
    rows = lock_works(connection, roots, wait=wait)
    starts = [each for each in roots if each in rows]
    if only_unfinished_roots:
        starts = [each for each in starts if rows[each].state in _UNFINISHED]
    found = {each: rows[each] for each in starts} | lock_descendants(connection, starts, wait=wait)
    doomed = [found[each] for each in sorted(found) if found[each].state in _UNFINISHED]
    if doomed:
        runs = [row.id for row in doomed if row.state == State.RUNNING and '"period"' in row.options]
        if runs:
            periods.write_cancelled(connection, runs, now, terms, reason)
        stops.write_cancelled(connection, [row.id for row in doomed if row.state == State.RUNNING], now, terms, reason)
        binds = [_cancelled(row, now, terms, reason, error) for row in doomed]
        _CANCEL.write(connection, binds)
        _note(connection, doomed, binds, change, frozenset(roots))
        ends = (
            bad_end(row.id, State.CANCELLED, error, json.loads(row.options), by_itself=False)
            for row in doomed
            if "errbacks" in row.options
        )
        aftermath.write(connection, ends, now, terms)
    return [row.id for row in doomed]


def _note(
    connection: Connection,
    doomed: Sequence[Locked],
    binds: Sequence[dict[str, Any]],
    change: Change,
    roots: frozenset[str],
) -> None:
    special = roots if change is not Change.CANCELLED else frozenset[str]()
    both = list(zip(doomed, binds, strict=True))
    note(connection, change, (_event(row, bind) for row, bind in both if row.id in special))
    note(connection, Change.CANCELLED, (_event(row, bind) for row, bind in both if row.id not in special))


def _event(row: Locked, bind: dict[str, Any]) -> WorkEvent:
    return WorkEvent(row.id, row.worker, reaches(Move.CANCEL), StopReason(bind["reason"]), row.node)


def _cancelled(row: Locked, now: int, terms: Terms, reason: StopReason, error: str | None) -> dict[str, Any]:
    is_told = row.state == State.RUNNING or reason is StopReason.QUOTA
    return {
        "key": row.id,
        "reason": int(reason if is_told else StopReason.NOT_STOPPED),
        "at": now,
        "prune": prune_moment(now, row.enqueued_at, json.loads(row.options), terms),
        "why": error,
    }


def unfinished_with(
    connection: Connection, *, tag_name: str | None = None, unique_name: str | None = None, after: str, limit: int
) -> list[str]:
    """Up to `limit` unfinished works with the tag, of the unique name, or (neither given) of the whole store.

    In id order, beyond `after`: what has finished is passed once, not again with every chunk.
    """
    unfinished = select(work.c.id).where(state_in(_UNFINISHED), work.c.id > after)
    if tag_name is not None:
        # Two indexed searches: the worker's own name is a tag without rows of its own.
        tagged = _among(tag.c.work, after).where(tag.c.tag == tag_name)
        found = union(tagged, unfinished.where(work.c.worker == tag_name)).order_by("id").limit(limit)
        return list(connection.execute(found).scalars())
    if unique_name is not None:
        unfinished = _among(member.c.work, after).where(member.c.name == unique_name)
    return list(connection.execute(unfinished.order_by("id").limit(limit)).scalars())


def _among(key: ColumnElement[str], after: str) -> Select[Any]:
    """The unfinished works whose ids stand in `key`, beyond `after`.

    Said of that column: of the works' own ids, SQLite would walk through all works in order if it knows of tags that
    most works have.
    """
    return select(key.label("id")).join(work, work.c.id == key).where(state_in(_UNFINISHED), key > after)
