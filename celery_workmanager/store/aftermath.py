"""What follows a work that ended badly: its errbacks, each a work of its own from the moment they are needed.

Source: Celery's guide, "Calling Tasks: Linking (callbacks/errbacks)" and "Canvas: Chord: Error handling".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select

from celery_workmanager.call import AFTERMATH_WORKER, Call, facts_of
from celery_workmanager.events import Change, WorkEvent
from celery_workmanager.news import note
from celery_workmanager.requests import OneTimeWorkRequest
from celery_workmanager.store.deleting import chunks
from celery_workmanager.store.rows import new_row
from celery_workmanager.tables import work
from celery_workmanager.terms import Terms
from celery_workmanager.work import State


@dataclass(frozen=True, slots=True)
class BadEnd:
    """A work that failed or was cancelled, and what is to run because of it."""

    id: str
    state: State
    error: str | None
    entries: tuple[dict[str, Any], ...]


def bad_end(work_id: str, state: State, error: str | None, options: Mapping[str, Any], *, by_itself: bool) -> BadEnd:
    """Return the end of a work with these `options`.

    `by_itself`: it failed, or was the body of a chord that did; else only those are told that wait for it elsewhere.
    """
    entries: Iterable[dict[str, Any]] = facts_of(options).get("errbacks", ())
    return BadEnd(work_id, state, error, tuple(entry for entry in entries if by_itself or "always" in entry))


def write(connection: Connection, ends: Iterable[BadEnd], now: int, terms: Terms) -> None:
    """Enqueue what is to run because of `ends`."""
    following = {end.id: end for end in ends if end.entries}
    rows: list[dict[str, Any]] = []
    columns = (work.c.id, work.c.worker, work.c.queue, work.c.options, work.c.input)
    for some in chunks(sorted(following)):
        for ended in connection.execute(select(*columns).where(work.c.id.in_(some))):
            rows += _rows(ended, following[ended.id], now, terms)
    if rows:
        connection.execute(insert(work), rows)
        note(connection, Change.ENQUEUED, (WorkEvent(row["id"], row["worker"], State.ENQUEUED) for row in rows))


def _rows(ended: Any, end: BadEnd, now: int, terms: Terms) -> Sequence[dict[str, Any]]:
    failed = {"id": ended.id, "task": ended.worker, "facts": facts_of(json.loads(ended.options))}
    failed["facts"].pop("errbacks", None)
    call = json.loads(ended.input)
    if set(call) == {"args", "kwargs"}:
        failed |= call
    told = {"failed": failed, "state": end.state.name, "error": end.error and json.loads(end.error)}
    calls = (json.dumps({"args": [], "kwargs": {**told, "entry": entry}}) for entry in end.entries)
    requests = (OneTimeWorkRequest(AFTERMATH_WORKER, call=Call(call)) for call in calls)
    return [new_row(each, ended.queue, State.ENQUEUED, now, terms, waits_for=0, has_parents=False) for each in requests]
