"""Works that come in as broker messages, and works that leave as such.

A message is acknowledged after the commit, and a work that leaves is deleted after its message was sent: so whatever
dies in between, a call is written or sent twice rather than never, and its id says that it is the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, func, or_, select, update
from sqlalchemy.exc import IntegrityError

from celery_workmanager.database import locking
from celery_workmanager.lifecycle import UNFINISHED
from celery_workmanager.planning import Step
from celery_workmanager.requests import OneTimeWorkRequest, WorkRequest
from celery_workmanager.store import Store
from celery_workmanager.store.cancelling import cancel_with_descendants
from celery_workmanager.store.deleting import chunks, delete_works
from celery_workmanager.store.marks import LANE_IS_OPEN
from celery_workmanager.store.rows import new_row
from celery_workmanager.store.upserts import insert_or_ignore
from celery_workmanager.tables import edge, state_in, work
from celery_workmanager.work import State

__all__ = ["Arrival", "Leaver", "depart", "followers", "leavers", "put_failed", "take_in", "unfinished", "worker_names"]

_TRIES = 5
_SET_ATTEMPTS = update(work).where(work.c.id == bindparam("key")).values(run_attempt_count=bindparam("attempts"))


class _ArrivedElsewhere(Exception):
    """The same message became a work at this moment, after we have looked for it: now it will be seen."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """The work that a message stands for, and the works that follow it."""

    id: str
    steps: Sequence[Step]
    #: How often it has been tried elsewhere.
    attempts: int = 0
    #: It was revoked before it arrived: it is stored as cancelled.
    revoked: bool = False
    #: It is a work of this or another store on its way out.
    released: bool = False


def take_in(store: Store, arrivals: Sequence[Arrival], queue_of: Callable[[WorkRequest], str]) -> set[str]:
    """Store works in one transaction, each with all that follows it, unless there is a work of its id.

    Returns the ids that were known. Raises what an enqueue does.
    """

    def change(connection: Connection) -> set[str]:
        _keep([arrival.id for arrival in arrivals if arrival.released], connection)
        known = _known([arrival.id for arrival in arrivals], connection)
        first = {arrival.id: arrival for arrival in reversed(arrivals)}
        fresh = [arrival for work_id, arrival in first.items() if work_id not in known]
        steps = [step for arrival in reversed(fresh) for step in arrival.steps]
        if steps:
            insertion = store.enqueue(steps, queue_of, connection)
            if any(arrival.id in insertion.skipped for arrival in fresh):
                raise _ArrivedElsewhere
        tried = [{"key": arrival.id, "attempts": arrival.attempts} for arrival in fresh if arrival.attempts]
        if tried:
            connection.execute(_SET_ATTEMPTS, tried)
        revoked = [arrival.id for arrival in fresh if arrival.revoked]
        if revoked:
            cancel_with_descendants(connection, revoked, store.clock.now(), store.terms)
        return known

    store.open()
    for _ in range(_TRIES):
        try:
            return store.database.run(change)
        except (_ArrivedElsewhere, IntegrityError):
            continue
    return store.database.run(change)


def _known(ids: Sequence[str], connection: Connection) -> set[str]:
    found: set[str] = set()
    for some in chunks(ids):
        found.update(connection.execute(select(work.c.id).where(work.c.id.in_(some))).scalars())
    return found


def _keep(ids: Sequence[str], connection: Connection) -> None:
    """Let works that are on their way out stay: their message has come back to where they are known."""
    # `depart` deletes only what has not changed since it was read. Whoever comes second sees what the first did.
    for some in chunks(ids):
        stays = update(work).where(work.c.id.in_(some), state_in([State.ENQUEUED]))
        connection.execute(stays.values(version=work.c.version + 1))


def put_failed(store: Store, request: OneTimeWorkRequest, queue: str, error: str) -> None:
    """Keep a call that can't become a work as one that FAILED with `error` (JSON), unless its id is known."""
    now = store.clock.now()
    row = new_row(request, queue, State.FAILED, now, store.terms, waits_for=0, has_parents=False)

    def change(connection: Connection) -> None:
        connection.execute(insert_or_ignore(work, connection), [row | {"error": error}])

    store.open()
    store.database.run(change)


# -- leaving ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Leaver:
    """A work that may leave the store as a message, as it was read; times in microseconds."""

    id: str
    queue: str
    input: str
    options: dict[str, Any]
    due_at: int | None
    expires_at: int | None
    run_attempt_count: int
    version: int


_COLUMNS = (
    work.c.id, work.c.queue, work.c.input, work.c.options, work.c.due_at, work.c.expires_at, work.c.run_attempt_count,
    work.c.version,
)  # fmt: skip


def _may_leave(worker: str, now: int) -> tuple[Any, ...]:
    # Not what a node holds, and nothing that waited for a work before it.
    # Periodic work doesn't: a message runs once.
    free = (work.c.node.is_(None), work.c.has_parents == 0, work.c.period_at.is_(None))
    # What is paused stays: elsewhere it would run.
    open_ = (work.c.held.is_(None), LANE_IS_OPEN)
    in_time = or_(work.c.expires_at.is_(None), work.c.expires_at > now)
    return (work.c.worker == worker, state_in([State.ENQUEUED]), *free, *open_, in_time)


def leavers(store: Store, worker: str, after: str, limit: int) -> list[Leaver]:
    """Up to `limit` works of `worker` that wait and may leave, in id order, with ids greater than `after`.

    Those that others wait for are among them: whoever sends messages looks at `followers` first.
    """
    which = (*_may_leave(worker, store.clock.now()), work.c.id > after)
    store.open()
    with store.database.plain() as connection:
        found = connection.execute(select(*_COLUMNS).where(*which).order_by(work.c.id).limit(limit)).all()
    return [Leaver(**{**row._mapping, "options": json.loads(row.options)}) for row in found]  # noqa: SLF001


def followers(store: Store, ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """The works that wait for each of `ids`, with the names of their workers."""
    store.open()
    with store.database.plain() as connection:
        return _followers(connection, ids)


def _followers(connection: Connection, ids: Sequence[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {each: {} for each in ids}
    for some in chunks(ids):
        pairs = select(edge.c.parent, edge.c.child, work.c.worker).join(work, work.c.id == edge.c.child)
        for row in connection.execute(pairs.where(edge.c.parent.in_(some))):
            found[row.parent][row.child] = row.worker
    return found


def depart(store: Store, worker: str, gone: Sequence[Leaver], dispensable: str) -> list[str]:
    """Delete works whose messages were sent, if nothing has happened to them since; returns the ids of these.

    Works of the worker `dispensable` that wait for them are deleted, too; one that others wait for stays.
    """

    def change(connection: Connection) -> list[str]:
        which = _may_leave(worker, store.clock.now())
        same = [each.id for each in gone if _is_the_same(connection, each, which)]
        waiting = _followers(connection, same)
        leaving = [each for each in same if set(waiting[each].values()) <= {dispensable}]
        delete_works(connection, [*leaving, *(child for each in leaving for child in waiting[each])])
        return leaving

    store.open()
    return store.database.run(change)


def _is_the_same(connection: Connection, leaver: Leaver, which: tuple[Any, ...]) -> bool:
    # Locked: what gets a child takes its lock first.
    row = select(work.c.id).where(work.c.id == leaver.id, work.c.version == leaver.version, *which)
    return connection.execute(locking(row, connection)).first() is not None


def unfinished(store: Store, worker: str, limit: int) -> list[str]:
    """The ids of up to `limit` unfinished works of `worker`, in id order."""
    found = select(work.c.id).where(work.c.worker == worker, state_in(UNFINISHED)).order_by(work.c.id).limit(limit)
    store.open()
    with store.database.plain() as connection:
        return list(connection.execute(found).scalars())


def worker_names(store: Store) -> list[str]:
    """The names of all workers that the store has works of, finished ones included."""
    first = select(func.min(work.c.worker).label("worker"))
    names = first.cte("names", recursive=True)
    # A loose index scan: one probe a name, however many works each has.
    following = select(func.min(work.c.worker)).where(work.c.worker > names.c.worker).scalar_subquery().label("worker")
    names = names.union_all(select(following).where(names.c.worker.is_not(None)))
    wanted = select(names.c.worker).where(names.c.worker.is_not(None))
    if store.database.is_mysql:  # which can't say it like that, and finds the same way by itself
        wanted = select(work.c.worker).distinct()
    store.open()
    with store.database.plain() as connection:
        return list(connection.execute(wanted).scalars())
