"""Enqueues that take no transaction of several statements.

A work by itself, what KEEP turns away and, on PostgreSQL, the first work under a name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    Connection,
    Select,
    Text,
    and_,
    any_,
    bindparam,
    exists,
    func,
    insert,
    literal_column,
    not_,
    select,
)  # fmt: skip
from sqlalchemy.dialects import postgresql

from celery_workmanager.bell import RING
from celery_workmanager.events import Change
from celery_workmanager.news import note
from celery_workmanager.planning import Insertion, NewWork, Step
from celery_workmanager.policies import ExistingPeriodicWorkPolicy, ExistingWorkPolicy
from celery_workmanager.requests import WorkRequest
from celery_workmanager.sentences import Sentence
from celery_workmanager.store.deleting import chunks
from celery_workmanager.store.inserting import busy_names, insert_row, lock_timeout, new_event
from celery_workmanager.store.marks import LABELS_ARE_PAUSED
from celery_workmanager.store.rows import new_row
from celery_workmanager.store.upserts import plain_type
from celery_workmanager.tables import member, name, state_in, work
from celery_workmanager.terms import Terms
from celery_workmanager.work import State

_KEEPING = (ExistingWorkPolicy.KEEP, ExistingPeriodicWorkPolicy.KEEP)


def _held(is_carried: Any) -> Select[Any]:
    """Of names that are known: whether KEEP leaves works under them as they are, see `planning`."""
    # Named, since not everybody who enqueues may read all columns.
    is_held = exists(work.c.id).where(is_carried, state_in((State.ENQUEUED, State.RUNNING)))
    return select(name.c.name, is_held.label("is_held"))


_CARRIERS = select(member.c.work).where(member.c.name == name.c.name).correlate(name)
_HELD = _held(and_(member.c.name == name.c.name, work.c.id == member.c.work))
#: PostgreSQL: a list, not a join, which statistics of a moment without works would make it go through all of them for.
_HELD_BY_LIST = _held(work.c.id == any_(func.array(_CARRIERS.scalar_subquery())))
_OF_NAMES = name.c.name.in_(bindparam("names", expanding=True))
_HELD_OF_NAMES = {True: _HELD_BY_LIST.where(_OF_NAMES), False: _HELD.where(_OF_NAMES)}
_OF_NAME = name.c.name == bindparam("name")
_HELD_OF_NAME = {True: Sentence(_HELD_BY_LIST.where(_OF_NAME)), False: Sentence(_HELD.where(_OF_NAME))}


def single_of(steps: Sequence[Step]) -> WorkRequest | None:
    """The request of an enqueue that is one INSERT: of a work that depends on nothing and has no label of its own."""
    return _only_one(steps) if steps and steps[0].name is None else None


def _only_one(steps: Sequence[Step]) -> WorkRequest | None:
    if len(steps) != 1 or len(steps[0].requests) != 1 or steps[0].parents:
        return None
    request = steps[0].requests[0]
    # The profile's limit of content triggers is a question before it.
    return None if len(request.tags) > 1 or request.constraints.content_uri_triggers else request


def enqueue_single(connection: Connection, request: WorkRequest, queue: str, now: int, terms: Terms) -> Insertion:
    """Store what `single_of` has found, with one statement. A known id raises IntegrityError."""
    row = new_row(request, queue, State.ENQUEUED, now, terms, waits_for=0, has_parents=False)
    insert_row(connection, row, has_labels=False)
    return _stored(connection, request, None)


def _stored(connection: Connection, request: WorkRequest, unique: str | None) -> Insertion:
    note(connection, Change.ENQUEUED, (new_event(each, State.ENQUEUED) for each in (request,)))
    return Insertion((NewWork(request, State.ENQUEUED, (), 0, unique),), ())


def may_be_kept(steps: Sequence[Step]) -> bool:
    """Whether all of an enqueue may come to nothing because KEEP finds its names in use."""
    return all(step.name is not None and step.policy in _KEEPING for step in steps)


def look_at(connection: Connection, steps: Sequence[Step]) -> dict[str, bool]:
    """Of the names that are known, whether a work under way carries each.

    Names are not locked: all this was true when it was read. What is done about it must be right later, too.
    """
    names = sorted({step.name for step in steps if step.name is not None})
    has_lists = connection.dialect.name == "postgresql"
    if len(names) == 1:
        rows = _HELD_OF_NAME[has_lists].say(connection, {"name": names[0]})
    else:
        asked = _HELD_OF_NAMES[has_lists]
        rows = [row for some in chunks(names) for row in connection.execute(asked, {"names": some})]
    return {each: bool(is_held) for each, is_held in rows}


def kept(steps: Sequence[Step], held: Mapping[str, bool]) -> Insertion | None:
    """The answer to an enqueue of which KEEP stores nothing; ``None`` when there may be something to store."""
    if not all(held.get(str(step.name)) for step in steps):
        return None
    return Insertion((), tuple([request.id for step in steps for request in step.requests]))


# -- a name that nobody has used before, on PostgreSQL ------------------------------------------------------------


def fresh_of(steps: Sequence[Step], held: Mapping[str, bool]) -> WorkRequest | None:
    """The request of an enqueue that is one statement if its name is still unknown then."""
    return None if held else _only_one(steps)


def enqueue_fresh(
    connection: Connection, request: WorkRequest, unique: str, queue: str, now: int, terms: Terms, wait: float
) -> Insertion | None:
    """Store what `fresh_of` has found; ``None``, and nothing stored: it takes a transaction.

    A name has been written by the first enqueue under it, and stays. Whoever writes it now knows, without a look, that
    no work carries it. A known id raises IntegrityError. Raises UniqueNameBusy.
    """
    row = new_row(request, queue, State.ENQUEUED, now, terms, waits_for=0, has_parents=False)
    with busy_names([unique], wait):
        values = {"unique_name": unique, "lock_timeout": lock_timeout(wait), **row}
        if not _under_fresh_name(tuple(row)).say(connection, values):
            return None
    return _stored(connection, request, unique)


@lru_cache(maxsize=64)
def _under_fresh_name(columns: tuple[str, ...]) -> Sentence:
    """The name, its work and their membership: all of them, or none when the name is known or any label is paused.

    The statement locks its tables before it looks at the database, so whoever pauses sees it at work, or it sees the
    mark: see `store.marks`. The time it may wait is set before the name is written, and ends with the statement.
    """
    unique: Any = bindparam("unique_name", type_=Text)
    timeout = func.set_config("lock_timeout", bindparam("lock_timeout", type_=Text), literal_column("true"))
    # Later steps of a chain carry its name, too, and don't write it: so its members are looked for as well.
    carried = exists().where(member.c.name == unique)
    may_be = and_(timeout.is_not(None), not_(LABELS_ARE_PAUSED.element), not_(carried))
    new = postgresql.insert(name).from_select(["name"], select(unique).where(may_be))
    fresh = new.on_conflict_do_nothing().returning(name.c.name).cte("fresh")
    work_id = bindparam("id", type_=Text)
    labelled = insert(member).from_select(["name", "work"], select(fresh.c.name, work_id)).cte("labelled")
    values = (bindparam(each, type_=plain_type(work.c[each].type)) for each in columns)
    stored = insert(work).from_select(list(columns), select(*values).select_from(fresh))
    return Sentence(stored.add_cte(labelled).returning(RING))
