"""What time does to works: due ones become claimable, expired ones are cancelled, forgotten ones are swept up.

Each statement is guarded and limited, so any process may run it at any moment.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, Connection, Select, String, Update, case, delete, func, or_, select, update

from celery_workmanager.call import facts_of
from celery_workmanager.database import locking
from celery_workmanager.events import Change
from celery_workmanager.inheritance import Failed
from celery_workmanager.lanes import lane_with
from celery_workmanager.lifecycle import Move, leaves, state_at_insertion
from celery_workmanager.news import note
from celery_workmanager.store.cancelling import cancel_with_descendants
from celery_workmanager.store.finishing import UNBLOCK, fail_descendants, unblocked_binds, unblocked_event
from celery_workmanager.store.graph import HeldByOthers, lock_works
from celery_workmanager.store.many import Given, Many
from celery_workmanager.tables import edge, limit, result, state_in, work
from celery_workmanager.terms import Terms
from celery_workmanager.work import State, WorkError

CHUNK = 1000
_MAY_BE_CLAIMED = work.c.node.is_(None) & work.c.held.is_(None)
EXPIRED = WorkError("Expired", "expired before it could start").to_json()


def promote(connection: Connection, now: int, limit: int = CHUNK) -> int:
    """Make works whose time has come claimable; returns how many (at most `limit`)."""
    due = select(work.c.id).where(work.c.due_at <= now).order_by(work.c.due_at).limit(limit)
    ids = connection.execute(locking(due, connection, skip=True)).scalars().all()
    if ids:
        statement = (
            update(work)
            .where(work.c.id.in_(ids), work.c.due_at <= now)
            .values(due_at=None, ready_lane=case((_MAY_BE_CLAIMED, work.c.lane), else_=None))
        )
        connection.execute(statement)
    return len(ids)


def _overdue(change: Update, given: Given) -> Update:
    return change.where(work.c.id == given["key"], work.c.deadline_at <= given["at"]).values(
        deadline_at=None,
        lane=given["free"],
        ready_lane=case((work.c.ready_lane.is_not(None), given["free"]), else_=None),
    )


_OVERDUE = Many({"key": String, "at": BigInteger, "free": BigInteger}, _overdue)


def pass_deadlines(connection: Connection, now: int, limit: int = CHUNK) -> int:
    """Give works whose deadline has come the lane of works without constraints; returns how many (at most `limit`)."""
    columns = (work.c.id, work.c.queue, work.c.worker, work.c.options)
    due = select(*columns).where(work.c.deadline_at <= now).order_by(work.c.deadline_at).limit(limit)
    rows = connection.execute(locking(due, connection, skip=True)).all()
    if rows:
        overdue = [
            {
                "key": row.id,
                "at": now,
                "free": lane_with(row.queue, row.worker, json.loads(row.options), is_overdue=True),
            }
            for row in rows
        ]
        _OVERDUE.write(connection, overdue)
    return len(rows)


def _moments() -> Select[Any]:
    # SQLite takes a partial index only where its condition is repeated. The first of an order, not a minimum: for that
    # PostgreSQL reads every entry, if its statistics are from a moment when there were none.
    due = select(work.c.due_at).where(work.c.due_at.is_not(None)).order_by(work.c.due_at).limit(1)
    may_expire = (work.c.expires_at.is_not(None), work.c.node.is_(None))
    expires = select(work.c.expires_at).where(*may_expire).order_by(work.c.expires_at).limit(1)
    deadline = work.c.deadline_at
    deadlines = select(deadline).where(deadline.is_not(None)).order_by(deadline).limit(1)
    wakes = select(limit.c.wake_at).where(limit.c.wake_at.is_not(None)).order_by(limit.c.wake_at).limit(1)
    return select(*(first.scalar_subquery() for first in (due, expires, deadlines, wakes)))


#: Made once: an idle node asks all the time, and to make it takes as long as the answer.
_MOMENTS = _moments()


def next_moment(connection: Connection) -> int | None:
    """When the next work is due, expires, has its deadline, or may have room under its limit (microseconds)."""
    moments = [moment for moment in connection.execute(_MOMENTS).one() if moment is not None]
    return min(moments, default=None)


def expire(connection: Connection, now: int, terms: Terms, limit: int = CHUNK) -> list[str]:
    """Cancel works that had to start by now and haven't; returns all that were cancelled, dependents included."""
    overdue = (
        select(work.c.id)
        .where(work.c.expires_at <= now, work.c.node.is_(None), state_in(leaves(Move.EXPIRE)))
        .order_by(work.c.expires_at)
        .limit(limit)
    )
    ids = list(connection.execute(locking(overdue, connection, skip=True)).scalars())
    return _cancel_expired(connection, ids, now, terms) if ids else []


def _cancel_expired(connection: Connection, ids: list[str], now: int, terms: Terms) -> list[str]:
    try:
        return cancel_with_descendants(connection, ids, now, terms, error=EXPIRED, change=Change.EXPIRED, wait=False)
    except HeldByOthers:
        if len(ids) == 1:
            return []  # somebody holds it or one of its dependents; it is looked at again
        return [each for some in ids for each in _cancel_expired(connection, [some], now, terms)]


def prune_results(connection: Connection, now: int, limit: int = CHUNK) -> int:
    """Delete up to `limit` results of ordinary tasks that have expired; returns how many."""
    expired = select(result.c.key).where(result.c.expires_at <= now).order_by(result.c.expires_at).limit(limit)
    keys = connection.execute(locking(expired, connection, skip=True)).scalars().all()
    if keys:
        connection.execute(delete(result).where(result.c.key.in_(keys), result.c.expires_at <= now))
    return len(keys)


def suspects(connection: Connection, after: str, limit: int = 500) -> tuple[str, list[str]]:
    """Of `limit` BLOCKED works with ids beyond `after`, those that nothing seems to block; and where to go on."""
    blocked = select(work.c.id).where(work.c.waits_for.is_not(None), work.c.id > after).order_by(work.c.id).limit(limit)
    ids = list(connection.execute(blocked).scalars())
    return (ids[-1] if len(ids) == limit else ""), _suspects(connection, ids)


def repair(connection: Connection, ids: Sequence[str], now: int, terms: Terms) -> int:
    """Unblock those of `ids` that nothing blocks indeed; returns how many: 0 unless a wake-up was lost."""
    return sum(_repair(connection, each, now, terms) for each in ids)


def _suspects(connection: Connection, ids: list[str]) -> list[str]:
    """Of BLOCKED works, those that have no unfinished prerequisite, or a broken one."""
    if not ids:
        return []
    parent = work.alias("parent")
    waiting = [int(state) for state in leaves(Move.CANCEL)]
    broken = [int(State.FAILED), int(State.CANCELLED)]
    counted = (
        select(work.c.id)
        .outerjoin(edge, edge.c.child == work.c.id)
        .outerjoin(parent, parent.c.id == edge.c.parent)
        .where(work.c.id.in_(ids))
        .group_by(work.c.id)
        .having(
            or_(
                func.coalesce(func.sum(case((parent.c.state.in_(waiting), 1), else_=0)), 0) == 0,
                func.coalesce(func.sum(case((parent.c.state.in_(broken), 1), else_=0)), 0) > 0,
            )
        )
    )
    return list(connection.execute(counted).scalars())


def _repair(connection: Connection, child_id: str, now: int, terms: Terms) -> int:
    try:
        row = lock_works(connection, [child_id], wait=False).get(child_id)
    except HeldByOthers:
        return 0  # somebody is at it
    if row is None or row.state != State.BLOCKED:
        return 0
    columns = (work.c.state, work.c.id, work.c.error, work.c.options)
    parents = select(*columns).join(edge, edge.c.parent == work.c.id).where(edge.c.child == child_id)
    found = connection.execute(parents).all()
    state = state_at_insertion(State(parent.state) for parent in found)
    if state is State.ENQUEUED:
        UNBLOCK.write(connection, [unblocked_binds(row, now)])
        note(connection, Change.UNBLOCKED, [unblocked_event(row)])
        return 1
    if state is State.BLOCKED:
        return 0
    culprits = [
        Failed(parent.id, parent.error, tuple(facts_of(json.loads(parent.options)).get("chord", ())))
        for parent in found
        if parent.state == state
    ]
    return _inherit(connection, culprits, child_id, state, now, terms)


def _inherit(
    connection: Connection, culprits: list[Failed], child_id: str, state: State, now: int, terms: Terms
) -> int:
    try:
        if state is State.CANCELLED:
            return len(cancel_with_descendants(connection, [child_id], now, terms, wait=False))
        return len(fail_descendants(connection, culprits, now, terms))
    except HeldByOthers:
        return 0
