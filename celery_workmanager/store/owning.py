"""What the end of a run reads of its work: whether the run still owns it, and what follows from that."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, Text, any_, bindparam, func, select

from celery_workmanager.database import locking
from celery_workmanager.lifecycle import Move
from celery_workmanager.sentences import Sentence
from celery_workmanager.store import lists
from celery_workmanager.store.deleting import chunks
from celery_workmanager.tables import work
from celery_workmanager.verdict import Verdict
from celery_workmanager.work import StopReason


class Own(NamedTuple):
    """A work whose run ends. A tuple of our own: rows of SQLAlchemy's are slow to ask by name, and all are asked."""

    id: str
    token: int | None
    state: int
    generation: int
    has_children: int
    held: int | None


_OWN = select(work.c.id, work.c.token, work.c.state, work.c.generation, work.c.has_children, work.c.held)
#: Made once: they are asked at the end of every run. PostgreSQL and SQLite take the ids as one parameter, however many.
_BY_LIST = _OWN.where(work.c.id == any_(lists.taken_apart("ids"))).order_by(work.c.id)
_IDS = func.json_each(bindparam("ids", type_=Text)).table_valued("value").c.value
_BY_JSON = Sentence(_OWN.where(work.c.id.in_(select(_IDS))).order_by(work.c.id))
_BY_EACH = _OWN.where(work.c.id.in_(bindparam("ids", expanding=True))).order_by(work.c.id)


def look_at(connection: Connection, ids: Sequence[str], *, wait: bool) -> tuple[dict[str, Own], dict[str, Own]]:
    """The works with `ids`: those that are locked now, and those that others hold (to `wait` for locks: none)."""
    lookup = _BY_LIST if connection.dialect.name == "postgresql" else _BY_EACH
    locked = _by_id(connection, locking(lookup, connection, skip=not wait), ids)
    missing = [each for each in ids if each not in locked]
    return locked, _by_id(connection, lookup, missing) if missing else {}


def _by_id(connection: Connection, lookup: Select[Any], ids: Sequence[str]) -> dict[str, Own]:
    if connection.dialect.name == "sqlite":
        return {row[0]: Own(*row) for row in _BY_JSON.say(connection, {"ids": json.dumps(ids)})}
    given = lists.joined(ids) if connection.dialect.name == "postgresql" else list(ids)
    return {row[0]: Own(*row) for row in connection.execute(lookup, {"ids": given})}


def as_they_were(connection: Connection, verdicts: list[Verdict]) -> list[Verdict]:
    """The verdicts; works that go back as if not claimed keep what their last runs have left: the stop, the error."""
    left: dict[str, Any] = {}
    columns = (work.c.id, work.c.stop_reason, work.c.output, work.c.error)
    for some in chunks([verdict.id for verdict in verdicts if verdict.move is Move.GIVE_BACK]):
        left |= {row.id: row for row in connection.execute(select(*columns).where(work.c.id.in_(some)))}
    return [_with(each, left[each.id]) if each.id in left else each for each in verdicts] if left else verdicts


def _with(verdict: Verdict, row: Any) -> Verdict:
    return replace(verdict, stop_reason=StopReason(row.stop_reason), output=row.output, error=row.error)
