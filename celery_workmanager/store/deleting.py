"""Deleting works with everything that belongs to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Select, delete, exists, or_, select

from celery_workmanager.database import locking
from celery_workmanager.events import Change, WorkEvent
from celery_workmanager.lifecycle import UNFINISHED
from celery_workmanager.news import note
from celery_workmanager.tables import edge, member, metadata, result, run, stop, tag, work
from celery_workmanager.work import State

CHUNK = 500

_child = work.alias("child")
_HAS_UNFINISHED_CHILD = exists(
    select(edge.c.child)
    .join(_child, _child.c.id == edge.c.child)
    .where(edge.c.parent == work.c.id, _child.c.state.in_([int(state) for state in UNFINISHED]))
)


def chunks(items: Sequence[str], size: int = CHUNK) -> Iterator[Sequence[str]]:
    """`items` in pieces that fit into one statement."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def delete_works(connection: Connection, ids: Sequence[str]) -> None:
    """Delete works, their edges on both sides, tags and memberships of names. The names themselves stay.

    So do permits, which count no more: a user's transaction must hold nothing that claims under limits wait for.
    """
    for some in chunks(ids):
        connection.execute(delete(edge).where(or_(edge.c.parent.in_(some), edge.c.child.in_(some))))
        connection.execute(delete(tag).where(tag.c.work.in_(some)))
        connection.execute(delete(member).where(member.c.work.in_(some)))
        connection.execute(delete(run).where(run.c.work.in_(some)))
        connection.execute(delete(stop).where(stop.c.work.in_(some)))
        connection.execute(delete(work).where(work.c.id.in_(some)))


def prunable(before: int | None, *columns: Any) -> Select[Any]:
    """Finished works that no unfinished work depends on directly; `before` as in `prune`."""
    finished = select(*columns).where(work.c.prune_at.is_not(None), ~_HAS_UNFINISHED_CHILD).order_by(work.c.prune_at)
    return finished if before is None else finished.where(work.c.prune_at <= before)


def prune(connection: Connection, before: int | None, limit: int = CHUNK, only: str | None = None) -> int:
    """Delete up to `limit` finished works that no unfinished work depends on directly; returns how many.

    `before` (microseconds): only those whose retention has ended by then; ``None``: all (WorkManager, ``pruneWork``).
    `only`: just the work with this id.
    """
    candidates = prunable(before, work.c.id, work.c.worker, work.c.state).limit(limit)
    if only is not None:
        candidates = candidates.where(work.c.id == only)
    rows = connection.execute(locking(candidates, connection, skip=True, of=work)).all()
    delete_works(connection, [row.id for row in rows])
    note(connection, Change.PRUNED, (WorkEvent(row.id, row.worker, State(row.state)) for row in rows))
    return len(rows)


def forget(connection: Connection, key: str, work_id: str) -> None:
    """Delete a result, and a work if it is finished and no unfinished one depends on it."""
    connection.execute(delete(result).where(result.c.key == key))
    prune(connection, None, only=work_id)


def empty(connection: Connection) -> None:
    """Delete every row of every table of ours."""
    for table in metadata.sorted_tables:
        connection.execute(delete(table))
