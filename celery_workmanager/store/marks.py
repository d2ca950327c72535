"""Marks of what is paused, and the column that repeats them on the works they hold.

A queue and a worker's name are lanes: nodes leave them out when they look for something to claim. A work of a paused
unique name, or with a paused tag of its own, is `held`: it gets no ``ready_lane``.

Whoever writes `held` first writes labels (an enqueue, an update) or takes the lock of such a writer (`store.pausing`),
and reads the marks afterwards. So either it sees a mark, or whoever sets that mark sees it at work, and waits until it
has ended before looking at the works. (A transaction of a user's with an isolation above READ COMMITTED that began
before the pause is the exception: it sees the marks of its beginning.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, and_, bindparam, case, exists, func, or_, select, update

from celery_workmanager.database import is_mysql, locking
from celery_workmanager.lifecycle import UNFINISHED
from celery_workmanager.pauses import PauseKind, PausePhase, PauseTarget
from celery_workmanager.store.deleting import chunks
from celery_workmanager.tables import IN_FORCE, OF_LABELS, OF_LANES, member, pause, state_in, tag, work
from celery_workmanager.work import State

#: Changes with every change of the pauses that nodes look at; 0: there are none.
STAMP = select(func.coalesce(func.sum(pause.c.token), 0)).where(OF_LANES).scalar_subquery()
#: Of a work: that neither its queue nor its worker is paused.
LANE_IS_OPEN = ~exists().where(
    IN_FORCE,
    or_(
        and_(pause.c.kind == PauseKind.QUEUE.value, pause.c.label == work.c.queue),
        and_(pause.c.kind == PauseKind.TAG.value, pause.c.label == work.c.worker),
    ),
)
#: Whether any tag or unique name is paused.
LABELS_ARE_PAUSED = select(pause.c.label).where(OF_LABELS).exists().label("labels_are_paused")


def is_target(target: PauseTarget) -> ColumnElement[bool]:
    """The row of the pause of `target`."""
    return and_(pause.c.kind == target.kind.value, pause.c.label == target.label)


# -- which works are held ------------------------------------------------------------------------------------------


#: Made once: while any label is paused, enqueues of works with labels ask it each time.
_MARKED = select(pause.c.kind, pause.c.label).where(OF_LABELS, pause.c.label.in_(bindparam("labels", expanding=True)))


def held_by(
    connection: Connection, tags: Mapping[str, Collection[str]], names: Mapping[str, Collection[str]]
) -> set[str]:
    """The works that are held for one of their `tags` of their own or their unique `names`, both by id.

    Reads nothing when there are neither. The labels must have been written before, see above.
    """
    labels = sorted({each for some in (*tags.values(), *names.values()) for each in some})
    found: dict[str, set[str]] = {PauseKind.TAG: set(), PauseKind.NAME: set()}
    for some in chunks(labels):
        for kind, label in connection.execute(_MARKED, {"labels": some}):
            found[kind].add(label)
    by_tag = {each for each, own in tags.items() if not found[PauseKind.TAG].isdisjoint(own)}
    return by_tag | {each for each, own in names.items() if not found[PauseKind.NAME].isdisjoint(own)}


def held_as_stored(connection: Connection, ids: Sequence[str]) -> set[str]:
    """Those of `ids` whose stored tags or unique names are paused."""
    # Their labels first: from the pauses' side a paused tag's works would be read, however many.
    tags, names = _labels_of(connection, tag, tag.c.tag, ids), _labels_of(connection, member, member.c.name, ids)
    return held_by(connection, tags, names) if tags or names else set()


def _labels_of(connection: Connection, table: Table, label: Any, ids: Sequence[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for some in chunks(ids):
        labels = select(table.c.work, label).where(table.c.work.in_(some))
        if is_mysql(connection):
            labels = labels.with_for_update()  # whoever pauses one of them waits for us, see `store.pausing`
        for each, own in connection.execute(labels):
            found[each].add(own)
    return found


_HOLD = update(work).values(held=1, ready_lane=None, version=work.c.version + 1)
_IS_DUE = and_(work.c.state == int(State.ENQUEUED), work.c.node.is_(None), work.c.due_at.is_(None))
_FREE = update(work).values(held=None, ready_lane=case((_IS_DUE, work.c.lane), else_=None), version=work.c.version + 1)


def bring_in_line(connection: Connection, ids: Sequence[str], *, skip: bool = False) -> tuple[int, int]:
    """Hold or free unfinished works as the marks say; returns how many were changed, and how many were passed over.

    `skip` passes over rows that others hold.
    """
    unfinished = select(work.c.id, work.c.held).where(work.c.id.in_(ids), state_in(UNFINISHED)).order_by(work.c.id)
    rows = connection.execute(locking(unfinished, connection, skip=skip)).all()
    marked = held_as_stored(connection, [row.id for row in rows])
    hold = [row.id for row in rows if row.held is None and row.id in marked]
    free = [row.id for row in rows if row.held is not None and row.id not in marked]
    for change, some in ((_HOLD, hold), (_FREE, free)):
        if some:
            connection.execute(change.where(work.c.id.in_(some)))
    return len(hold) + len(free), len(ids) - len(rows)


def to_look_at(connection: Connection, target: PauseTarget, phase: PausePhase, after: str, limit: int) -> list[str]:
    """Up to `limit` unfinished works of `target` that are not yet held (or, resuming, still are), beyond `after`."""
    table, label = (tag, tag.c.tag) if target.kind is PauseKind.TAG else (member, member.c.name)
    wanted = (
        select(work.c.id)
        .join(table, table.c.work == work.c.id)
        .where(label == target.label, table.c.work > after, work.c.id > after, state_in(UNFINISHED))
        .order_by(table.c.work)
        .limit(limit)
    )
    is_held = work.c.held.is_not(None) if phase is PausePhase.RESUMING else work.c.held.is_(None)
    return list(connection.execute(wanted.where(is_held)).scalars())
