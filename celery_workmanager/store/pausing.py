"""Pausing and resuming: the mark is set in one transaction, then the works it is about follow in chunks.

Whoever dies on the way leaves a mark that says so; upkeep goes on from there (`go_on`).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, delete, select, text, update
from sqlalchemy.exc import DBAPIError

from celery_workmanager import queries
from celery_workmanager.bell import ring
from celery_workmanager.database import is_conflict, is_lock_timeout
from celery_workmanager.errors import PauseIncomplete
from celery_workmanager.pauses import PauseInfo, PauseKind, PausePhase, PauseTarget
from celery_workmanager.store import Store, marks
from celery_workmanager.store.marks import is_target
from celery_workmanager.store.upserts import upsert
from celery_workmanager.tables import IS_KNOWN, member, tag
from celery_workmanager.tables import pause as pause_table
from celery_workmanager.timing import SECOND

__all__ = ["Task", "go_on", "pause", "paused", "resume"]

#: Works that are marked in one transaction.
CHUNK = 500
#: How long (microseconds) whoever paused or resumed is left alone before upkeep helps, and how much at a time.
HELP_AFTER, HELP = 10 * SECOND, 10
#: Seconds that upkeep waits for others.
HELP_PATIENCE = 0.2
_BREATH = 0.005


@dataclass(slots=True)
class Task:
    """A pause, or the end of one, to be carried out: it is, while its token stands."""

    target: PauseTarget
    token: int
    #: How far this round through its works has come, and how many of them others held in it.
    after: str = ""
    missed: int = 0


def paused(store: Store) -> list[PauseInfo]:
    """The pauses that are in force."""
    store.open()
    with store.database.plain() as connection:
        return queries.pauses(connection)


def pause(store: Store, target: PauseTarget) -> bool:
    """Let no work of `target` (or none by that node) be claimed any more; ``False`` when it was paused already.

    Raises PauseIncomplete.
    """
    store.open()
    applied, task = store.database.run(lambda connection: _set_mark(connection, target, store.clock.now()))
    if task is not None:
        _carry_out(store, task, store.database.lock_wait)
    return applied


def resume(store: Store, target: PauseTarget) -> bool:
    """Let works of `target` be claimed again; ``False`` when it was not paused. Raises PauseIncomplete."""
    store.open()
    task = store.database.run(lambda connection: _lift_mark(connection, target, store.clock.now()))
    if task is None:
        return False
    _carry_out(store, task, store.database.lock_wait)
    return True


def go_on(store: Store, tasks: dict[int, Task]) -> None:
    """Carry on with pauses whose caller died or gave up: a few chunks. `tasks`: where the calls before have come to."""
    before = store.clock.now() - HELP_AFTER
    is_at_rest = pause_table.c.phase == int(PausePhase.PAUSED)
    begun = select(pause_table).where(IS_KNOWN, ~is_at_rest, pause_table.c.changed_at < before)
    store.open()
    with store.database.plain() as connection:
        rows = connection.execute(begun).all()
    known = {row.token: Task(PauseTarget(PauseKind(row.kind), row.label), row.token) for row in rows}
    for token in tasks.keys() - known.keys():
        del tasks[token]
    for task in [tasks.setdefault(token, fresh) for token, fresh in known.items()]:
        try:
            _carry_out(store, task, HELP_PATIENCE, most=HELP)
        except PauseIncomplete:
            continue  # others are still at it, or there is more; there is a next time


# -- the mark ------------------------------------------------------------------------------------------------------


def _set_mark(connection: Connection, target: PauseTarget, now: int) -> tuple[bool, Task | None]:
    """Whether it is a new pause, and what is to be done for it."""
    phase = PausePhase.PAUSING if target.kind.marks_works else PausePhase.PAUSED
    token = secrets.randbits(30) + 1
    mark = {"since": now, "changed_at": now, "token": token, "phase": int(phase)}
    # Locks the row, whoever wrote it.
    new = upsert(pause_table, connection, "label")
    connection.execute(new, {"kind": target.kind.value, "label": target.label, **mark})
    row = connection.execute(select(pause_table).where(is_target(target))).one()
    if row.phase != PausePhase.RESUMING:
        is_done = row.phase == PausePhase.PAUSED
        return row.token == token, None if is_done else Task(target, row.token)
    connection.execute(update(pause_table).where(is_target(target)).values(**mark))
    return True, Task(target, token)


def _lift_mark(connection: Connection, target: PauseTarget, now: int) -> Task | None:
    task = Task(target, secrets.randbits(30) + 1)
    lifted = {"phase": int(PausePhase.RESUMING), "token": task.token, "changed_at": now}
    if connection.execute(update(pause_table).where(is_target(target)).values(**lifted)).rowcount == 0:
        return None
    if not target.kind.marks_works:
        _close(connection, task)
    ring(connection)
    return task


def _close(connection: Connection, task: Task) -> None:
    mine = (is_target(task.target), pause_table.c.token == task.token)
    connection.execute(
        update(pause_table)
        .where(*mine, pause_table.c.phase == int(PausePhase.PAUSING))
        .values(phase=int(PausePhase.PAUSED))
    )
    connection.execute(delete(pause_table).where(*mine, pause_table.c.phase == int(PausePhase.RESUMING)))


# -- the works -----------------------------------------------------------------------------------------------------


def _carry_out(store: Store, task: Task, patience: float, most: int | None = None) -> None:
    if not task.target.kind.marks_works:
        return
    # In a caller's transaction nobody can see the mark yet: what is written meanwhile a node sees to, after the commit.
    is_joined = store.database.is_joined
    are_seen = is_joined or _wait_for_writers(store, task.target, patience)
    if not _walk(store, task, patience, most) or not are_seen:
        raise PauseIncomplete(str(task.target), patience)
    if not is_joined:
        store.database.run(lambda connection: _close(connection, task))


def _walk(store: Store, task: Task, patience: float, most: int | None) -> bool:
    """Bring all works of the pause in line with it; ``False`` when others held some too long, or after `most` chunks.

    Rows that others hold are passed over and looked at again: a round that has missed none is the last.
    """
    until = time.monotonic() + patience
    taken = 0
    while most is None or taken < most:
        taken += 1
        ids, changed, missed = store.database.run(lambda connection: _chunk(connection, task))
        task.missed += missed
        if changed:
            until = time.monotonic() + patience
        if ids:
            task.after = ids[-1]
            continue
        is_last = not task.missed
        task.after, task.missed = "", 0
        if is_last:
            return True
        if time.monotonic() > until:
            return False
        time.sleep(_BREATH)
    return False


def _chunk(connection: Connection, task: Task) -> tuple[list[str], int, int]:
    """The works looked at, how many of them were changed, and how many others held."""
    if connection.dialect.name == "postgresql":
        connection.execute(_AS_WRITER)
    mark = select(pause_table.c.phase).where(is_target(task.target), pause_table.c.token == task.token)
    found = connection.execute(mark).scalar()
    if found is None:
        return [], 0, 0  # resumed, or paused again, meanwhile: that one sees to all works
    phase = PausePhase(found)
    ids = marks.to_look_at(connection, task.target, phase, task.after, CHUNK)
    changed, missed = marks.bring_in_line(connection, ids, skip=True) if ids else (0, 0)
    if changed and phase is PausePhase.RESUMING:
        ring(connection)
    return ids, changed, missed


_WRITERS = text(
    "SELECT virtualtransaction FROM pg_locks WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' AND granted"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND relation IN ('workmanager_tag'::regclass, 'workmanager_member'::regclass)"
)
_AS_WRITER = text("LOCK TABLE workmanager_tag IN ROW EXCLUSIVE MODE")


def _wait_for_writers(store: Store, target: PauseTarget, patience: float) -> bool:
    """Wait until all have ended that may have read the marks before the present ones; ``False``: not in time.

    They can't be blocked by a lock of ours: an enqueue in a user's long transaction would then stall all others. So
    this waits as ``CREATE INDEX CONCURRENTLY`` does. On SQLite there is one writer at a time.
    """
    if store.database.is_sqlite:
        return True
    until = time.monotonic() + patience
    with store.database.plain() as connection:
        waits = _by_labels(connection, target) if store.database.is_mysql else _by_locks(connection)
        for _ in waits:
            if time.monotonic() > until:
                return False
            time.sleep(_BREATH)
    return True


def _by_locks(connection: Connection) -> Iterator[None]:
    """Wait for the writers that are there now: ends when they have ended, and yields whenever they haven't yet."""
    before = set(connection.execute(_WRITERS).scalars())
    while before:
        yield
        before &= set(connection.execute(_WRITERS).scalars())


def _by_labels(connection: Connection, target: PauseTarget) -> Iterator[None]:
    """The same on MySQL, which says of nobody what he writes: his rows with the label can't be locked meanwhile.

    What is written behind us is written after the mark.
    """
    table, label, index = _LABELS[target.kind]
    after = ""
    page = (
        select(table.c.work)
        .where(label == target.label, table.c.work > bindparam("after"))
        .with_hint(table, f"FORCE INDEX ({index})", "*")  # others would lead past rows without the label
        .order_by(table.c.work)
        .limit(CHUNK)
        .with_for_update(nowait=True)
    )
    while True:
        try:
            seen = connection.execute(page, {"after": after}).scalars().all()
        except DBAPIError as error:
            if not is_lock_timeout(error) and not is_conflict(error):
                raise
            yield
            continue
        if not seen:
            return
        after = seen[-1]


_LABELS = {
    PauseKind.TAG: (tag, tag.c.tag, "workmanager_tag_tag"),
    PauseKind.NAME: (member, member.c.name, "PRIMARY"),
}
