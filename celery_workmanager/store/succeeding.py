"""The end of runs that others have waited for, on PostgreSQL: one statement ends them and releases their children.

Step by step (`finishing`) it takes ten, which were half the time of a link of a chain. What it reads is from one
moment. So it ends a work only if neither that nor a child of it has changed since, and nobody holds one of them;
whatever is left goes step by step. A new edge changes the row of its parent: none is missed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    CompoundSelect,
    Connection,
    Integer,
    Select,
    Text,
    and_,
    any_,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    null,
    or_,
    select,
    union_all,
    update,
)

from celery_workmanager.bell import RING
from celery_workmanager.events import Change, WorkEvent
from celery_workmanager.lifecycle import Move, leaves, reaches
from celery_workmanager.news import note
from celery_workmanager.outcome import Claim
from celery_workmanager.sentences import Sentence
from celery_workmanager.store import claiming, ending, lists
from celery_workmanager.store.finishing import Settled
from celery_workmanager.store.following import Taker
from celery_workmanager.tables import edge, state_in, work
from celery_workmanager.verdict import Verdict
from celery_workmanager.work import State

_IDS = lists.taken_apart("key")
#: Where a row lies: somewhere else after each change of it.
_PLACE: ColumnElement[Any] = literal_column("workmanager_work.ctid").label("place")
_READY, _BLOCKED = int(reaches(Move.UNBLOCK)), int(State.BLOCKED)


def _has_any(ids: Select[Any]) -> ColumnElement[bool]:
    return work.c.id == any_(func.array(ids.scalar_subquery()))


def _statement(alike: bool) -> CompoundSelect[Any]:
    kin = select(edge.c.parent, edge.c.child).where(edge.c.parent == any_(_IDS)).cte("kin")
    concerned = work.c.id == any_(func.array_cat(_IDS, func.array(select(kin.c.child).scalar_subquery())))
    before = select(work.c.id, _PLACE, _may_be_taken().label("may_be_taken")).where(concerned).cte("before")
    held = select(work.c.id, _PLACE, work.c.state, work.c.waits_for, work.c.options).where(concerned)
    locked = held.order_by(work.c.id).with_for_update(skip_locked=True).cte("locked")
    same = and_(before.c.id == locked.c.id, before.c.place == locked.c.place)
    usual = or_(locked.c.state != _BLOCKED, locked.c.options.not_like('%"initial_delay"%'))
    known = select(locked.c.id, locked.c.waits_for, before.c.may_be_taken)
    as_before = known.join(before, same).where(usual).cte("as_before")
    hindered = select(kin.c.parent).where(kin.c.child.not_in(select(as_before.c.id)))
    endable = select(as_before.c.id).where(as_before.c.id == any_(_IDS)).except_(hindered).cte("endable")
    given = ending.given_to(alike)
    ended = (
        ending.settlement(update(work), given, ending.begins(given))
        .where(_has_any(select(endable.c.id)), work.c.generation == given["as_of"], work.c.held.is_(None))
        .returning(work.c.id)
        .cte("ended")
    )
    count = func.count()
    is_ready = func.coalesce(as_before.c.waits_for, 0) <= count
    has_room = func.count().over() <= bindparam("room", type_=Integer)
    freed = (
        select(kin.c.child, count.label("count"), is_ready.label("is_ready"))
        .add_columns(and_(is_ready, has_room, as_before.c.may_be_taken).label("is_taken"))
        .join(as_before, as_before.c.id == kin.c.child)
        .where(kin.c.parent.in_(select(ended.c.id)))
        .group_by(kin.c.child, as_before.c.waits_for, as_before.c.may_be_taken)
        .cte("freed")
    )
    released = _released(freed).cte("released")
    blank = [cast(null(), column.type) for column in released.c][1:]
    is_left = select(released.c.own).where(released.c.state == _READY, released.c.node.is_(None)).exists()
    return union_all(select(released), select(ended.c.id, *blank), select(cast(RING, Text), *blank).where(is_left))


def _may_be_taken() -> ColumnElement[bool]:
    own_lane = work.c.lane == any_(lists.taken_apart("lanes", BigInteger))
    return and_(own_lane, work.c.held.is_(None), work.c.urgency >= 0, *claiming.MAY_BE_CLAIMED)


def _released(freed: Any) -> Any:
    now: Any = bindparam("at", type_=BigInteger)
    ready, taken = freed.c.is_ready, freed.c.is_taken
    others = edge.alias("others")
    only_parent = select(func.min(others.c.parent)).where(others.c.child == work.c.id).having(func.count() == 1)
    return (
        update(work)
        .where(work.c.id == freed.c.child, _has_any(select(freed.c.child)), state_in(leaves(Move.UNBLOCK)))
        .values(
            state=case((ready, _READY), else_=work.c.state),
            waits_for=case((ready, null()), else_=work.c.waits_for - freed.c.count),
            enqueued_at=case((ready, now), else_=work.c.enqueued_at),
            run_at=case((ready, now), else_=work.c.run_at),
            ready_lane=case((and_(ready, ~taken, work.c.held.is_(None)), work.c.lane), else_=null()),
            node=case((taken, bindparam("by", type_=Text)), else_=null()),
            token=case((taken, bindparam("with_token", type_=BigInteger)), else_=null()),
            version=work.c.version + case((ready, 1), else_=0),
        )
        .returning(
            work.c.id.label("own"),
            work.c.state,
            work.c.node,
            only_parent.scalar_subquery().label("only_parent"),
            *claiming.CLAIMED,
        )
    )


_SUCCEED = {alike: Sentence(_statement(alike)) for alike in (False, True)}


def write(connection: Connection, verdicts: Sequence[Verdict], now: int, taker: Taker | None) -> Settled:
    """Write those of `verdicts` (see `Verdict.only_releases`) that one statement can end; the others are as they were.

    `taker` claims what is unblocked by it.
    """
    alike, values = ending.batch(verdicts, now)
    values |= {
        "at": now,
        "lanes": "" if taker is None else lists.joined(list(taker.lanes)),
        "room": 0 if taker is None else taker.room,
        "by": "" if taker is None else taker.node,
        "with_token": 0 if taker is None else taker.token,
    }
    rows = _SUCCEED[alike].say(connection, values)
    outputs = {each.id: each.output for each in verdicts}
    unblocked = [row for row in rows if row[1] == _READY]
    note(connection, Change.UNBLOCKED, map(_event, unblocked))
    settled = Settled(accepted={row[0] for row in rows if row[1] is None and row[0]}, unblocked=len(unblocked))
    if taker is not None:
        taken = (row for row in unblocked if row[2] is not None)
        settled.claims = [_with_outputs(connection, row, outputs, taker) for row in taken]
    return settled


def _event(row: Sequence[Any]) -> WorkEvent:
    return WorkEvent(row[0], row[_CLAIMED_FROM + claiming.WORKER], State(_READY))


#: Where the columns of a claim begin.
_CLAIMED_FROM = 4


def _with_outputs(connection: Connection, row: Sequence[Any], outputs: Mapping[str, str | None], taker: Taker) -> Claim:
    claim = claiming.as_claim(row[_CLAIMED_FROM:], taker.node, taker.token)
    if row[3] in outputs:
        claim.inputs.append(outputs[row[3]] or claiming.NO_OPTIONS)
    else:
        claiming.add_outputs_of_prerequisites(connection, [claim])
    return claim
