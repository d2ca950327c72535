"""Enqueues that take no transaction of several statements: a work by itself, and what KEEP turns away."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, select

from celery_workmanager.events import Change
from celery_workmanager.news import note
from celery_workmanager.planning import Insertion, NamePlan, NewWork, Step, plan_insertion
from celery_workmanager.policies import ExistingPeriodicWorkPolicy, ExistingWorkPolicy
from celery_workmanager.requests import WorkRequest
from celery_workmanager.store.deleting import chunks
from celery_workmanager.store.inserting import insert_row, new_event
from celery_workmanager.store.rows import new_row
from celery_workmanager.tables import member, state_in, work
from celery_workmanager.terms import Terms
from celery_workmanager.work import State

_KEEPING = (ExistingWorkPolicy.KEEP, ExistingPeriodicWorkPolicy.KEEP)
#: Those of some names that KEEP leaves as they are, see `planning`.
_HELD = (
    select(member.c.name)
    .join(work, work.c.id == member.c.work)
    .where(member.c.name.in_(bindparam("names", expanding=True)), state_in((State.ENQUEUED, State.RUNNING)))
    .distinct()
)


def single_of(steps: Sequence[Step]) -> WorkRequest | None:
    """The request of an enqueue that is one INSERT: of a work that depends on nothing and has no label of its own."""
    if len(steps) != 1 or len(steps[0].requests) != 1 or steps[0].name is not None or steps[0].parents:
        return None
    request = steps[0].requests[0]
    # The profile's limit of content triggers is a question before it.
    return None if len(request.tags) > 1 or request.constraints.content_uri_triggers else request


def enqueue_single(connection: Connection, request: WorkRequest, queue: str, now: int, terms: Terms) -> Insertion:
    """Store what `single_of` has found, with one statement. A known id raises IntegrityError."""
    row = new_row(request, queue, State.ENQUEUED, now, terms, waits_for=0, has_parents=False)
    insert_row(connection, row, has_labels=False)
    note(connection, Change.ENQUEUED, (new_event(each, State.ENQUEUED) for each in (request,)))
    return Insertion((NewWork(request, State.ENQUEUED, (), 0, None),), ())


def may_be_kept(steps: Sequence[Step]) -> bool:
    """Whether all of an enqueue may come to nothing because KEEP finds its names in use."""
    return all(step.name is not None and step.policy in _KEEPING for step in steps)


def kept(connection: Connection, steps: Sequence[Step]) -> Insertion | None:
    """The answer to an enqueue of which KEEP stores nothing; ``None`` when there may be something to store.

    Names are not locked: that works under way carry them is true when it is read, and nothing is done about it.
    """
    names = sorted({step.name for step in steps if step.name is not None})
    held = [each for some in chunks(names) for each in connection.execute(_HELD, {"names": some}).scalars()]
    return plan_insertion(steps, dict.fromkeys(names, NamePlan(keep=True)), {}) if len(held) == len(names) else None
