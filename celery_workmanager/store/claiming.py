"""Claiming: a node takes the most urgent works of its lanes and puts its token on them.

A claim never reads by time or state: promotion moved what is due into the small index of claimable works.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    CompoundSelect,
    Connection,
    Select,
    String,
    Text,
    Update,
    any_,
    bindparam,
    cast,
    func,
    null,
    or_,
    select,
    union_all,
    update,
)

from celery_workmanager.database import is_mysql, locking
from celery_workmanager.lanes import Lane, lane_read
from celery_workmanager.lifecycle import Move, leaves, reaches
from celery_workmanager.outcome import Claim, Standing
from celery_workmanager.pauses import LanePauses
from celery_workmanager.sentences import Sentence
from celery_workmanager.store import lists, two_steps
from celery_workmanager.store.deleting import chunks
from celery_workmanager.store.many import Given, Many
from celery_workmanager.store.marks import LANE_IS_OPEN, NODE_IS_OPEN, STAMP
from celery_workmanager.tables import OF_LANES, edge, pause, state_in, work
from celery_workmanager.work import State, StopReason

NO_OPTIONS = "{}"
#: In the text of `STANDING`: sooner than any moment that can be asked for.
_NO_MOMENT = -(1 << 62)


def _standing() -> ColumnElement[str]:
    facts: tuple[ColumnElement[Any], ...] = (
        work.c.period_count,
        work.c.override_generation,
        work.c.stop_reason,
        func.coalesce(work.c.override_at, _NO_MOMENT),
    )
    # NULL where `period_at` is; a CASE that says so is wrong in RETURNING of SQLite 3.40, which takes NULL for a value.
    joined: ColumnElement[str] = cast(work.c.period_at, String)
    for each in facts:
        joined = joined + "," + cast(each, String)
    return joined.label("standing")


#: Where a periodic work stands: one column, NULL of one-time works, so that these pay next to nothing for it.
STANDING = _standing()
#: How many lanes one statement looks into; a node that serves more works takes them in several statements.
MOST_LANES = 100


def ready_lanes_probed() -> Select[Any]:
    """The lanes in which anything is ready."""
    # A loose index scan: one probe a lane, however many works wait in each. Ordered, and the first taken: for a minimum
    # PostgreSQL reads every entry, if its statistics are from a moment when nothing was ready.
    least = select(work.c.ready_lane).order_by(work.c.ready_lane).limit(1)
    first = least.where(work.c.ready_lane.is_not(None)).scalar_subquery()
    lanes = select(first.label("lane")).cte("lanes", recursive=True)
    following = least.where(work.c.ready_lane > lanes.c.lane).scalar_subquery().label("lane")
    lanes = lanes.union_all(select(following).where(lanes.c.lane.is_not(None)))
    return select(lanes.c.lane).where(lanes.c.lane.is_not(None))


#: MySQL can't say it like that, and finds the same way by itself.
_DISTINCT_LANES = two_steps.among_ready(select(work.c.ready_lane).where(work.c.ready_lane.is_not(None)).distinct())
_READY_LANES = ready_lanes_probed()
_PAUSES = select(null(), pause.c.kind, pause.c.label, pause.c.token).where(OF_LANES)


def _look(lanes: Select[Any]) -> CompoundSelect[Any]:
    return union_all(lanes.add_columns(null(), null(), null()), _PAUSES)


_LOOK, _LOOK_DISTINCT = Sentence(_look(_READY_LANES)), Sentence(_look(_DISTINCT_LANES))
#: What lanes stand for that were looked into: the same for ever.
_KINDS: dict[int, Lane] = {}
_MOST_KINDS = 4096


@dataclass(frozen=True, slots=True)
class Look:
    """The lanes in which something may be claimed, and the stamp of the pauses that were taken into account."""

    lanes: list[int]
    stamp: int
    #: What those among them stand for that the looker didn't know.
    kinds: Mapping[int, Lane] = field(default_factory=dict)
    #: The names of nodes that may claim nothing.
    drained: frozenset[str] = frozenset()


def ready_lanes(connection: Connection) -> list[int]:
    """The lanes in which anything is ready, paused or not."""
    return list(connection.execute(_DISTINCT_LANES if is_mysql(connection) else _READY_LANES).scalars())


def look(connection: Connection, known: Container[int] | None = None) -> Look:
    """The lanes in which anything may be claimed now: those of paused queues and workers are left out.

    `known`: the lanes that needn't be told what they stand for (``None``: none need). Those that this version can't
    tell are left out.
    """
    rows = (_LOOK_DISTINCT if is_mysql(connection) else _LOOK).say(connection, {})
    pauses = [row for row in rows if row[0] is None]
    lanes = [row[0] for row in rows if row[0] is not None]
    kinds: dict[int, Lane] = {}
    if known is not None:
        kinds = {lane: kind for lane in lanes if lane not in known and (kind := _kind(connection, lane)) is not None}
        lanes = [lane for lane in lanes if lane in known or lane in kinds]
    if not pauses:
        return Look(lanes, 0, kinds)
    paused = LanePauses.of((row[1], row[2]) for row in pauses)
    lanes = [lane for lane in lanes if _is_open(connection, lane, paused)]
    return Look(lanes, sum(row[3] for row in pauses), kinds, paused.nodes)


def _is_open(connection: Connection, lane: int, paused: LanePauses) -> bool:
    kind = _kind(connection, lane)
    return kind is not None and not paused.cover(kind.queue, kind.worker)


def _kind(connection: Connection, lane: int) -> Lane | None:
    kind = _KINDS.get(lane)
    if kind is None:
        head = select(work.c.queue, work.c.worker, work.c.options).where(work.c.ready_lane == lane).limit(1)
        row = connection.execute(head).first()
        kind = None if row is None else lane_read(lane, row.queue, row.worker, row.options)
        if kind is not None:
            if len(_KINDS) >= _MOST_KINDS:
                forget_lanes()
            _KINDS[lane] = kind
    return kind


def forget_lanes() -> None:
    """Forget what lanes stand for: they are looked into again."""
    _KINDS.clear()


@lru_cache(maxsize=MOST_LANES * 4)
def _claim_from(lanes: int, dialect: str) -> Sentence:
    arms = [_arm(position, dialect) for position in range(lanes)]
    chosen: Any
    if lanes == 1:
        chosen = arms[0]
    else:
        heads = union_all(*(select(arm.subquery(f"lane_{at}")) for at, arm in enumerate(arms))).subquery("heads")
        most = _limit(bindparam("most", type_=BigInteger), dialect)
        chosen = select(heads.c.id).order_by(heads.c.urgency, heads.c.run_at, heads.c.id).limit(most)
    # A CTE is evaluated once; a subquery with LIMIT and locks could be evaluated again and claim more.
    # Its arms guard the claim, and hold what they have found. Here the same condition would invite PostgreSQL to go
    # through all that is ready, if its statistics are from a moment when nothing was; a join with them, through the
    # whole key (see `ending`): so it gets a list.
    # Who has looked before a pause was made, or taken back, claims nothing and looks again.
    ids = select(chosen.cte("chosen").c.id)
    is_chosen = work.c.id == any_(func.array(ids.scalar_subquery())) if dialect == "postgresql" else work.c.id.in_(ids)
    return Sentence(claiming(is_chosen, bindparam("stamp") == STAMP))


#: What a claim reads. Rows are unpacked in this order: columns by their names cost a quarter of a claim.
CLAIMED = (
    work.c.urgency, work.c.run_at, work.c.has_parents, work.c.id, work.c.worker, work.c.queue,
    work.c.run_attempt_count, work.c.interruptions, work.c.generation, work.c.enqueued_at, work.c.input,
    work.c.options, STANDING, work.c.has_children,
)  # fmt: skip
#: The place of the worker's name among them.
WORKER = CLAIMED.index(work.c.worker)
_HAS_PARENTS = CLAIMED.index(work.c.has_parents)
_BY_URGENCY = itemgetter(0, 1, 3)
_UNEXPIRED = or_(work.c.expires_at.is_(None), work.c.expires_at > bindparam("at"))


_TAKING = update(work).values(ready_lane=null(), node=bindparam("by"), token=bindparam("with_token"))
_TAKE_ONE = _TAKING.where(work.c.id.in_(bindparam("ids", expanding=True)))
_TAKE = _TAKE_ONE.where(bindparam("stamp") == STAMP)


def claiming(*guards: ColumnElement[bool]) -> Update:
    """The claim of what `guards` say, in the name of a node (``by``) and under a token (``with_token``)."""
    return _TAKING.where(*guards).returning(*CLAIMED)


@lru_cache(maxsize=MOST_LANES)
def _heads(lanes: int) -> Any:
    return two_steps.heads([_arm(position, "mysql").with_only_columns(*CLAIMED) for position in range(lanes)])


def _arm(position: int, dialect: str) -> Select[Any]:
    return head(
        work.c.ready_lane == bindparam(f"lane_{position}"), bindparam(f"most_{position}", type_=BigInteger), dialect
    )


def head(is_there: ColumnElement[bool], most: Any, dialect: str = "postgresql") -> Select[Any]:
    """The head of one lane: up to `most` works, locked, with what they are sorted by."""
    arm = (
        select(work.c.id, work.c.urgency, work.c.run_at)
        .where(is_there, _UNEXPIRED)
        .order_by(work.c.urgency, work.c.run_at, work.c.id)
        .limit(_limit(most, dialect))
    )
    return arm if dialect == "sqlite" else arm.with_for_update(skip_locked=True)


def _limit(most: Any, dialect: str) -> Any:
    return lists.hidden(most) if dialect == "postgresql" else most


def claim(
    connection: Connection,
    lanes: Sequence[int],
    *,
    node: str,
    token: int,
    limit: int,
    now: int,
    caps: Mapping[int, int] | None = None,
    stamp: int | None = None,
) -> list[Claim]:
    """Claim up to `limit` works from `lanes` for `node` under `token`, the most urgent and oldest first.

    A lane that stands in `caps` gives at most that many. `stamp`: of the `look` that found the lanes (``None``: looked
    for now); when something was paused since, none are claimed.

    Two nodes never claim the same work: each takes rows that no other transaction holds, in one statement.
    """
    if stamp is None:
        seen = look(connection)
        lanes, stamp = [lane for lane in lanes if lane in seen.lanes], seen.stamp
    if not lanes:
        return []
    caps = caps or {}
    # Those beyond have their turn with the next claims: its token is random.
    first = token % len(lanes) if len(lanes) > MOST_LANES else 0
    some = [*lanes[first:], *lanes[:first]][:MOST_LANES]
    binds: dict[str, Any] = {f"lane_{position}": lane for position, lane in enumerate(some)}
    binds |= {f"most_{position}": min(limit, caps.get(lane, limit)) for position, lane in enumerate(some)}
    binds |= {"by": node, "with_token": token, "most": limit, "at": now, "stamp": stamp}
    if is_mysql(connection):
        rows = two_steps.claim(connection, _heads(len(some)), _TAKE, binds, _BY_URGENCY)
    else:
        rows = _claim_from(len(some), connection.dialect.name).say(connection, binds)
    return claims_of(connection, rows, node, token)


def claims_of(connection: Connection, rows: Iterable[Sequence[Any]], node: str, token: int) -> list[Claim]:
    """The claims that rows of `CLAIMED` columns make, in order, each with what it is run with."""
    rows = sorted(rows, key=_BY_URGENCY)
    claims = [as_claim(row, node, token) for row in rows]
    add_outputs_of_prerequisites(connection, [c for c, row in zip(claims, rows, strict=True) if row[_HAS_PARENTS]])
    return claims


#: Of a work that is ready: that the node ``by`` may claim it at the moment ``at``.
MAY_BE_CLAIMED = (_UNEXPIRED, LANE_IS_OPEN, NODE_IS_OPEN)
_THIS_ONE = (work.c.id == bindparam("key"), work.c.ready_lane.is_not(None), *MAY_BE_CLAIMED)
_CLAIM_ONE = Sentence(claiming(*_THIS_ONE))
_LOCK_ONE = select(*CLAIMED).where(*_THIS_ONE).with_for_update()


def claim_one(connection: Connection, work_id: str, *, node: str, token: int, now: int) -> list[Claim]:
    """Claim this very work, if it may be claimed now; an empty list otherwise."""
    binds = {"key": work_id, "by": node, "with_token": token, "at": now}
    rows: Sequence[Any]
    if is_mysql(connection):
        rows = two_steps.claim(connection, _LOCK_ONE, _TAKE_ONE, {**binds, "most": 1}, _BY_URGENCY)
    else:
        rows = _CLAIM_ONE.say(connection, binds)
    claims = [as_claim(row, node, token) for row in rows]
    add_outputs_of_prerequisites(connection, claims)
    return claims


def as_claim(row: Any, node: str, token: int) -> Claim:
    """The claim that a row of `CLAIMED` columns makes."""
    urgency, run_at, _, key, worker, queue, attempts, interruptions, generation, enqueued_at, given, *rest = row
    options, standing, has_children = rest
    return Claim(
        id=key,
        worker=worker,
        queue=queue,
        token=token,
        node=node,
        run_attempt_count=attempts,
        interruptions=interruptions,
        generation=generation,
        inputs=[given],
        enqueued_at=enqueued_at or 0,
        run_at=run_at,
        options={} if options == NO_OPTIONS else json.loads(options),
        standing=None if standing is None else standing_of(standing),
        urgency=urgency,
        has_children=bool(has_children),
    )


def standing_of(text: str) -> Standing:
    """Where a periodic work stands, as `STANDING` says."""
    at, count, generation, reason, override_at = map(int, text.split(","))
    was_begun = reason != StopReason.NOT_STOPPED
    return Standing(count, at, None if override_at == _NO_MOMENT else override_at, generation, was_begun=was_begun)


# Not a join: PostgreSQL may go through all edges and works for one, by a plan from a time when there were none.
_OUTPUT = select(work.c.output).where(work.c.id == edge.c.parent).scalar_subquery()
_OUTPUTS = select(edge.c.child, _OUTPUT.label("output")).order_by(edge.c.child, edge.c.position)
_OUTPUTS_FOR_ONE = Sentence(_OUTPUTS.where(edge.c.child == bindparam("child")))


def add_outputs_of_prerequisites(connection: Connection, claims: Sequence[Claim]) -> None:
    """Give `claims` the outputs of the works they have waited for, in order."""
    by_id = {each.id: each for each in claims}
    if len(by_id) == 1:
        outputs = _OUTPUTS_FOR_ONE.say(connection, {"child": claims[0].id})
    else:
        found = (connection.execute(_OUTPUTS.where(edge.c.child.in_(some))) for some in chunks(list(by_id)))
        outputs = [row for rows in found for row in rows]
    for child, output in outputs:
        by_id[child].inputs.append(output or NO_OPTIONS)


def _started(change: Update, given: Given) -> Update:
    return change.where(work.c.id == given["key"], state_in(leaves(Move.START))).values(
        state=int(reaches(Move.START)),
        run_attempt_count=work.c.run_attempt_count + 1,
        runs=work.c.runs + 1,
        started_at=given["at"],
        stop_reason=int(StopReason.NOT_STOPPED),
        version=work.c.version + 1,
    )


def _progressed(change: Update, given: Given) -> Update:
    is_new = or_(work.c.progress.is_(None), work.c.progress != given["text"])
    return change.where(work.c.id == given["key"], is_new).values(progress=given["text"], version=work.c.version + 1)


_START = Many({"key": String, "at": BigInteger}, _started)
_PROGRESS = Many({"key": String, "text": Text}, _progressed)


def _lock_mine(connection: Connection, claims: Iterable[Claim], states: Sequence[State]) -> set[str]:
    """Lock those of `claims` whose run is still theirs, passing over rows that others hold: a node waits for nobody."""
    tokens = {each.id: each.token for each in claims}
    mine: set[str] = set()
    for some in chunks(sorted(tokens)):
        statement = select(work.c.id, work.c.token).where(work.c.id.in_(some), state_in(states))
        rows = connection.execute(locking(statement.order_by(work.c.id), connection, skip=True))
        mine |= {row.id for row in rows if row.token == tokens[row.id]}
    return mine


def write_starts(connection: Connection, starts: Sequence[tuple[Claim, int]]) -> set[str]:
    """Write RUNNING for runs that began (moments in microseconds); returns the ids of those it was written for."""
    mine = _lock_mine(connection, (each for each, _ in starts), leaves(Move.START))
    _START.write(connection, [{"key": each.id, "at": at} for each, at in starts if each.id in mine])
    return mine


def write_progress(connection: Connection, entries: Sequence[tuple[Claim, str]]) -> set[str]:
    """Replace the progress (JSON text) of works whose run is still theirs; returns their ids."""
    mine = _lock_mine(connection, (each for each, _ in entries), (State.RUNNING,))
    _PROGRESS.write(connection, [{"key": each.id, "text": progress} for each, progress in entries if each.id in mine])
    return mine


_OWNED = select(work.c.id, work.c.token).where(work.c.node == bindparam("owner"))


def owned(connection: Connection, node: str) -> dict[str, int]:
    """The works that `node` holds now, with the token of each: what it runs beyond that is no longer its own."""
    return {row.id: row.token for row in connection.execute(_OWNED, {"owner": node})}
