"""Walking and locking the graph of works."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, select

from celery_workmanager.database import locking
from celery_workmanager.sentences import Sentence
from celery_workmanager.store.deleting import chunks
from celery_workmanager.tables import edge, work


class Locked(NamedTuple):
    """A work whose row is locked. Its values are as the driver gives them."""

    id: str
    worker: str
    state: int
    token: int | None
    node: str | None
    lane: int
    waits_for: int | None
    options: str
    enqueued_at: int | None


_LOCKED = select(*(work.c[name] for name in Locked._fields))
_ONE = _LOCKED.where(work.c.id == bindparam("id"))
#: Most have one child, as the links of a chain do.
_LOCK_ONE = {skip: Sentence(_ONE.with_for_update(skip_locked=skip)) for skip in (False, True)}


class HeldByOthers(Exception):
    """Rows that another transaction holds: those who may not wait try again without them."""

    def __init__(self, ids: set[str]) -> None:
        super().__init__(ids)
        self.ids = ids


def children_of(connection: Connection, parents: Sequence[str]) -> dict[str, str]:
    """The direct dependents of `parents`, each once, with one of its parents."""
    found: dict[str, str] = {}
    for some in chunks(parents):
        below = select(edge.c.child, edge.c.parent).where(edge.c.parent.in_(some)).order_by(edge.c.child)
        found |= dict(connection.execute(below).all())
    return found


def ways_down(connection: Connection, roots: Iterable[str]) -> dict[str, str]:
    """All works downstream of `roots`, through works of every state, level by level, each with one of its parents."""
    seen: dict[str, str] = {}
    level = list(roots)
    while level:
        below = children_of(connection, level)
        level = [child for child in below if child not in seen]
        seen |= {child: below[child] for child in level}
    return seen


def descendants_of(connection: Connection, roots: Iterable[str]) -> list[str]:
    """All works downstream of `roots`, through works of every state, level by level."""
    return list(ways_down(connection, roots))


def lock_descendants(connection: Connection, roots: Sequence[str], *, wait: bool) -> dict[str, Locked]:
    """Lock everything downstream of `roots`, whose own rows are locked already.

    A new edge needs its parent's lock: what is locked gets no more children, what got some before is looked at again.
    """
    rows: dict[str, Locked] = {}
    seen: set[str] = set()
    fresh = descendants_of(connection, roots)
    while fresh:
        rows |= lock_works(connection, fresh, wait=wait)
        seen.update(fresh)
        late = [child for child in children_of(connection, fresh) if child not in seen]
        fresh = late + [child for child in descendants_of(connection, late) if child not in seen]
    return rows


def lock_works(connection: Connection, ids: Iterable[str], *, wait: bool) -> dict[str, Locked]:
    """Lock the rows of `ids` in id order. Without `wait`, rows that others hold raise HeldByOthers."""
    wanted = sorted(set(ids))
    found: dict[str, Locked] = {}
    if len(wanted) == 1:
        found = {row[0]: Locked(*row) for row in _LOCK_ONE[not wait].say(connection, {"id": wanted[0]})}
    else:
        for some in chunks(wanted):
            statement = locking(_LOCKED.where(work.c.id.in_(some)).order_by(work.c.id), connection, skip=not wait)
            found |= {row[0]: Locked(*row) for row in connection.execute(statement)}
    if not wait and len(found) < len(wanted):
        _refuse_held(connection, [each for each in wanted if each not in found])
    return found


def _refuse_held(connection: Connection, missing: Sequence[str]) -> None:
    held: set[str] = set()
    for some in chunks(missing):
        held |= set(connection.execute(select(work.c.id).where(work.c.id.in_(some))).scalars())
    if held:
        raise HeldByOthers(held)
