"""What is known of one work and of all that may hold it up: reads for `explaining`, each of them bounded."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from sqlalchemy import Connection, and_, func, or_, select

from celery_workmanager.bounds import Bound, bounds_of, is_limited, quota_of
from celery_workmanager.errors import InvalidRequest, WorkNotFound
from celery_workmanager.explaining import MOST, SHOWN, Circumstances, WorkFacts, explain
from celery_workmanager.explanation import Explanation
from celery_workmanager.lifecycle import UNFINISHED
from celery_workmanager.pauses import PauseInfo, PauseKind
from celery_workmanager.queries import pause_info
from celery_workmanager.readings import Readings
from celery_workmanager.requests import WorkRequest
from celery_workmanager.serving import NodeFacts
from celery_workmanager.store import Store, leasing, limiting, rows
from celery_workmanager.tables import IN_FORCE, edge, member, pause, state_in, work
from celery_workmanager.terms import Terms
from celery_workmanager.work import State

#: Pauses that are read: each drained node is one.
_MOST_PAUSES = 1_000


def explain_stored(store: Store, work_id: str) -> Explanation:
    """Why a work doesn't run now. Raises WorkNotFound."""
    now = store.clock.now()
    store.open()
    with store.database.plain() as connection:
        return explain(_of_stored(connection, work_id, now, store.terms), now)


def explain_new(store: Store, request: WorkRequest, queue: str) -> Explanation:
    """Why a work would not run now, were it enqueued in `queue`; nothing is written."""
    now = store.clock.now()
    row = rows.new_row(request, queue, State.ENQUEUED, now, store.terms, waits_for=0, has_parents=False)
    stored = SimpleNamespace(**dict.fromkeys(work.c.keys()) | row)
    store.open()
    with store.database.plain() as connection:
        return explain(_around(connection, stored, (), now, store.terms), now)


def _of_stored(connection: Connection, work_id: str, now: int, terms: Terms) -> Circumstances:
    row = connection.execute(select(work).where(work.c.id == work_id)).first()
    if row is None:
        raise WorkNotFound(work_id)
    names = connection.execute(select(member.c.name).where(member.c.work == work_id)).scalars()
    return _around(connection, row, names.all(), now, terms)


def _around(connection: Connection, row: Any, names: Any, now: int, terms: Terms) -> Circumstances:
    facts = _facts(row)
    if facts.state.is_finished:
        return Circumstances(work=facts)
    nodes = _nodes(connection, now)
    if facts.node is not None:
        return Circumstances(work=facts, nodes=nodes)
    limits = _limits(connection, row, facts)
    keys = sorted({bound.key for bound in limits})
    quota = quota_of(facts.options, facts.worker, terms.expedited_quota) if facts.urgency < 0 else ()
    return Circumstances(
        work=facts,
        nodes=nodes,
        limits=limits,
        quota=quota,
        room=limiting.look(connection, [*keys, *(bound.key for bound in quota)], now),
        holders={key: tuple(limiting.holders(connection, key, SHOWN)) for key in keys},
        pauses=_pauses(connection, facts, names),
        blockers=_blockers(connection, facts),
        blocker_count=row.waits_for or 0,
        before=_before(connection, row),
    )


def _facts(row: Any) -> WorkFacts:
    options = json.loads(row.options)
    return WorkFacts(
        id=row.id,
        worker=row.worker,
        queue=row.queue,
        state=State(row.state),
        due_at=row.due_at,
        urgency=row.urgency,
        expires_at=row.expires_at,
        deadline_at=row.deadline_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        run_attempt_count=row.run_attempt_count,
        period_at=row.period_at,
        override_at=row.override_at,
        node=row.node,
        is_held=row.held is not None,
        error=row.error,
        options=options,
    )


def _nodes(connection: Connection, now: int) -> tuple[NodeFacts, ...]:
    """The nodes that run works, with what each has in hand."""
    rows = sorted((row for row in leasing.nodes(connection) if row.runs_works), key=lambda row: row.name)
    held = select(work.c.node).where(work.c.node.is_not(None)).limit(MOST).subquery("held")
    numbers = connection.execute(select(held.c.node, func.count().label("number")).group_by(held.c.node))
    holds: dict[str, int] = dict(numbers.all())
    return tuple(node_facts(row, now, holds.get(row.id, 0)) for row in rows)


def node_facts(row: leasing.NodeRow, now: int, holds: int = 0) -> NodeFacts:
    """A node as it told of itself."""
    facts = json.loads(row.facts)
    queues, workers = facts.get("queues"), facts.get("workers")
    return NodeFacts(
        id=row.id,
        name=row.name,
        lease_until=row.lease_until,
        is_alive=row.is_alive(now),
        queues=None if queues is None else frozenset(queues),
        workers=None if workers is None else frozenset(workers),
        concurrency=facts.get("concurrency"),
        holds=holds,
        readings=Readings.from_json(facts.get("readings", {})),
        watches_files=bool(facts.get("watches_files")),
        is_closing=bool(facts.get("is_closing")),
    )


def _pauses(connection: Connection, facts: WorkFacts, names: Any) -> tuple[PauseInfo, ...]:
    labels = {
        PauseKind.QUEUE: [facts.queue],
        PauseKind.TAG: [facts.worker, *facts.options.get("tags", ())],
        PauseKind.NAME: names,
    }
    own = [and_(pause.c.kind == kind.value, pause.c.label.in_(some)) for kind, some in labels.items()]
    mine = select(pause).where(IN_FORCE, or_(*own, pause.c.kind == PauseKind.NODE.value))
    rows = connection.execute(mine.order_by(pause.c.since).limit(_MOST_PAUSES))
    return tuple(pause_info(row) for row in rows)


def _blockers(connection: Connection, facts: WorkFacts) -> dict[str, State]:
    if facts.state is not State.BLOCKED:
        return {}
    parents = select(work.c.id, work.c.state).join(edge, edge.c.parent == work.c.id)
    unfinished = parents.where(edge.c.child == facts.id, state_in(UNFINISHED)).order_by(edge.c.position).limit(SHOWN)
    return {row.id: State(row.state) for row in connection.execute(unfinished)}


def _limits(connection: Connection, row: Any, facts: WorkFacts) -> tuple[Bound, ...]:
    """Its limits; none while their keys can't be filled in: a prerequisite may still give what is missing."""
    if not is_limited(facts.options):
        return ()
    outputs = select(work.c.output).join(edge, edge.c.parent == work.c.id).where(edge.c.child == facts.id)
    given = connection.execute(outputs.order_by(edge.c.position)).scalars()
    try:
        return bounds_of(facts.options, [row.input, *filter(None, given)])
    except InvalidRequest:
        return ()


def _before(connection: Connection, row: Any) -> int:
    """How many ready works of its lane, or works that its limit has parked, come before it, up to one too many."""
    if row.ready_lane is None and row.parked_by is None:
        return 0
    alike = work.c.parked_by == row.parked_by if row.ready_lane is None else work.c.ready_lane == row.ready_lane
    same = and_(work.c.urgency == row.urgency, work.c.run_at == row.run_at, work.c.id < row.id)
    earlier = and_(work.c.urgency == row.urgency, work.c.run_at < row.run_at)
    before = (
        select(work.c.id)
        .where(alike, or_(work.c.urgency < row.urgency, earlier, same))
        .order_by(work.c.urgency, work.c.run_at, work.c.id)
        .limit(MOST + 1)
    )
    return int(connection.execute(select(func.count()).select_from(before.subquery("before"))).scalar_one())
