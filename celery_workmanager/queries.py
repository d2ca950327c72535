"""Reads for people: works as WorkInfo."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, bindparam, exists, func, or_, select

from celery_workmanager.constraints import Constraints
from celery_workmanager.data import Data
from celery_workmanager.errors import WorkNotFound
from celery_workmanager.foreground import taken_apart
from celery_workmanager.lifecycle import UNFINISHED
from celery_workmanager.limits import Limit, Rate
from celery_workmanager.outcome import Standing
from celery_workmanager.pauses import LanePauses, PauseInfo, PauseKind, PausePhase
from celery_workmanager.periods import Periodicity, described, upcoming
from celery_workmanager.query import WorkQuery
from celery_workmanager.sentences import Sentence
from celery_workmanager.tables import (
    IN_FORCE,
    IS_KNOWN,
    OF_LANES,
    edge,
    fact,
    member,
    node,
    pause,
    result,
    run,
    state_in,
    stop,
    tag,
    work,
)
from celery_workmanager.timing import as_datetime, as_timedelta
from celery_workmanager.work import (
    PeriodicityInfo,
    RunInfo,
    RunOutcome,
    State,
    StopInfo,
    StopReason,
    WorkError,
    WorkInfo,
)

CHUNK = 500
LAST_CANCEL_ALL = "last_cancel_all_time"

_held = work.alias("held")
_OF_KIND = {True: work.c.period_at.is_not(None), False: work.c.period_at.is_(None)}


def work_infos(connection: Connection, query: WorkQuery) -> list[WorkInfo]:
    """The works that `query` matches, in its order."""
    rows = connection.execute(_matching(query, work)).all()
    infos: list[WorkInfo] = []
    paused = paused_lanes(connection) if rows else LanePauses()
    for start in range(0, len(rows), CHUNK):
        infos += _infos(connection, rows[start : start + CHUNK], paused)
    return infos


def versions(connection: Connection, query: WorkQuery) -> dict[str, int]:
    """The version of each work that `query` matches: what an observer compares."""
    rows = connection.execute(_matching(query, work.c.id, work.c.version))
    return {row.id: row.version for row in rows}


def last_cancel_all(connection: Connection) -> int:
    """When all work was last cancelled, in microseconds; 0 if never."""
    value = connection.execute(select(fact.c.value).where(fact.c.key == LAST_CANCEL_ALL)).scalar()
    return int(value) if value else 0


def pauses(connection: Connection) -> list[PauseInfo]:
    """All pauses that are in force, by kind and label."""
    rows = connection.execute(select(pause).where(IS_KNOWN, IN_FORCE).order_by(pause.c.kind, pause.c.label))
    return [pause_info(row) for row in rows]


def pause_info(row: Any) -> PauseInfo:
    """A row of a pause as people see it."""
    return PauseInfo(PauseKind(row.kind), row.label, as_datetime(row.since), is_complete=row.phase == PausePhase.PAUSED)


def paused_lanes(connection: Connection) -> LanePauses:
    """The queues and tags that are paused now."""
    return LanePauses.of(connection.execute(select(pause.c.kind, pause.c.label).where(OF_LANES)))


def counts(connection: Connection) -> dict[State, int]:
    """How many works are in each state (reads every row: for people, not for loops)."""
    rows = connection.execute(select(work.c.state, func.count()).group_by(work.c.state))
    return {State(state): number for state, number in rows}


def _matching(query: WorkQuery, *columns: Any) -> Select[Any]:
    statement = select(*columns)
    for column, values in ((work.c.id, query.ids), (work.c.queue, query.queues), (work.c.worker, query.workers)):
        if values:
            statement = statement.where(column.in_(values))
    if query.unique_names:
        named = select(member.c.work).where(member.c.name.in_(query.unique_names))
        statement = statement.where(work.c.id.in_(named))
    if query.tags:
        tagged = select(tag.c.work).where(tag.c.tag.in_(query.tags))
        of_worker = select(work.c.id).where(work.c.worker.in_(query.tags))
        # Of a union as it stands, MySQL would ask once for each work.
        either = tagged.union_all(of_worker).subquery("either")
        statement = statement.where(work.c.id.in_(select(either.c.work)))
    if query.states:
        statement = statement.where(work.c.state.in_([int(state) for state in query.states]))
    if query.states == (State.RUNNING,):
        # What runs has a node, and an index of its own: a store full of finished works need not be searched for it.
        statement = statement.where(work.c.id.in_(select(_held.c.id).where(_held.c.node.is_not(None))))
    if query.periodic is not None:
        statement = statement.where(_OF_KIND[query.periodic])
    if query.nodes:
        statement = statement.where(_held_by(query.nodes))
    if query.after is not None:
        statement = statement.where(work.c.id < query.after if query.newest_first else work.c.id > query.after)
    return statement.order_by(work.c.id.desc() if query.newest_first else work.c.id).limit(query.limit)


def _held_by(nodes: Sequence[str]) -> ColumnElement[bool]:
    named = select(node.c.id).where(node.c.name.in_(nodes))
    return or_(work.c.node.in_(nodes), work.c.node.in_(named))


def _infos(connection: Connection, rows: Sequence[Any], paused: LanePauses) -> Iterator[WorkInfo]:
    ids = [row.id for row in rows]
    tags = _grouped(connection, select(tag.c.work, tag.c.tag).where(tag.c.work.in_(ids)))
    names = _grouped(
        connection, select(member.c.work, member.c.name).where(member.c.work.in_(ids)).order_by(member.c.name)
    )
    with_parents = [row.id for row in rows if row.has_parents]
    parents = _grouped(
        connection,
        select(edge.c.child, edge.c.parent).where(edge.c.child.in_(with_parents)).order_by(edge.c.position),
    )
    return (_info(row, tags[row.id], names[row.id], parents[row.id], paused) for row in rows)


def _grouped(connection: Connection, pairs: Select[Any]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for key, value in connection.execute(pairs):
        groups[key].append(value)
    return groups


def _info(row: Any, tags: list[str], names: list[str], parents: list[str], paused: LanePauses) -> WorkInfo:
    options = json.loads(row.options)
    state = State(row.state)
    is_call = "call" in options
    period = Periodicity.of(options)
    progress, foreground = taken_apart(row.progress, row.token) if row.progress else ("{}", None)
    return WorkInfo(
        id=row.id,
        state=state,
        tags=frozenset((row.worker, *tags)),
        output_data=shown_output(row.output) if state.is_finished or period is not None else Data.EMPTY,
        progress=Data.from_json(progress),
        foreground=foreground if state is State.RUNNING else None,
        run_attempt_count=row.run_attempt_count,
        generation=row.generation,
        initial_delay=as_timedelta(options.get("initial_delay", 0)),
        next_schedule_time=as_datetime(row.run_at) if state is State.ENQUEUED else None,
        stop_reason=StopReason(row.stop_reason),
        worker_name=row.worker,
        input_data=_shown_call(row.input) if is_call else Data.from_json(row.input),
        unique_names=tuple(names),
        queue=row.queue,
        priority=options.get("priority", 0),
        enqueued_at=as_datetime(row.enqueued_at),
        started_at=as_datetime(row.started_at),
        finished_at=as_datetime(row.finished_at),
        error=WorkError.from_json(row.error) if row.error else None,
        prerequisites=tuple(parents),
        node=row.node,
        version=row.version,
        runs=row.runs,
        interruptions=row.interruptions,
        retry_of=row.retry_of,
        paused=not state.is_finished and (row.held is not None or paused.cover(row.queue, row.worker)),
        periodicity_info=None if period is None else _periodicity(period),
        period_count=row.period_count,
        next_schedule_time_override=as_datetime(row.override_at),
        **_conditions(options),
    )


def _conditions(options: dict[str, Any]) -> dict[str, Any]:
    """What `store.rows` wrote of a request's constraints, deadline and limits."""
    found: dict[str, Any] = {}
    if "constraints" in options:
        found["constraints"] = Constraints.known_of(options["constraints"])[0]
    if "deadline" in options:
        found["deadline"] = as_datetime(options["deadline"])
    if "deadline_after" in options:
        found["deadline"] = as_timedelta(options["deadline_after"])
    if "concurrency" in options:
        found["concurrency"] = Limit(*options["concurrency"])
    if "rate" in options:
        key, n, per = options["rate"]
        found["rate"] = Rate(key, n, as_timedelta(per))
    return found


def _periodicity(period: Periodicity) -> PeriodicityInfo:
    every = None if period.interval is None else as_timedelta(period.interval)
    return PeriodicityInfo(
        repeat_interval=every,
        flex_interval=every if period.flex is None else as_timedelta(period.flex),
        schedule=described(period),
        catch_up=period.catch_up,
        start_at=as_datetime(period.start),
        end_at=as_datetime(period.end),
    )


def runs(connection: Connection, work_id: str) -> list[RunInfo]:
    """The past runs that are kept of a work, the newest first."""
    found = connection.execute(select(run).where(run.c.work == work_id).order_by(run.c.number.desc()))
    return [
        RunInfo(
            number=row.number,
            period=row.period,
            scheduled_at=as_datetime(row.scheduled_at),
            started_at=as_datetime(row.started_at),
            finished_at=as_datetime(row.finished_at),
            node=row.node,
            outcome=RunOutcome[row.outcome],
            stop_reason=StopReason(row.stop_reason),
            output_data=shown_output(row.output),
            error=WorkError.from_json(row.error) if row.error else None,
        )
        for row in found
    ]


def stops(connection: Connection, work_id: str) -> list[StopInfo]:
    """The stops that are kept of a work's runs, the newest first."""
    found = connection.execute(select(stop).where(stop.c.work == work_id).order_by(stop.c.number.desc()))
    return [
        StopInfo(
            number=row.number,
            reason=StopReason(row.reason),
            stopped_at=as_datetime(row.at),
            started_at=as_datetime(row.started_at),
            node=row.node,
            run_attempt_count=row.run_attempt_count,
        )
        for row in found
    ]


def next_run_times(connection: Connection, work_id: str, count: int, now: int) -> list[int]:
    """Up to `count` moments at which a work runs next, as far as they are known. Raises WorkNotFound."""
    columns = (
        work.c.state, work.c.run_at, work.c.options, work.c.period_count, work.c.period_at, work.c.override_at,
    )  # fmt: skip
    row = connection.execute(select(*columns).where(work.c.id == work_id)).first()
    if row is None:
        raise WorkNotFound(work_id)
    run_at = row.run_at if row.state == State.ENQUEUED else None
    period = Periodicity.of(json.loads(row.options))
    if State(row.state).is_finished or period is None:
        return [] if run_at is None else [run_at]
    standing = Standing(row.period_count, row.period_at, row.override_at)
    return list(islice(upcoming(period, standing, run_at, now), count))


def shown_output(text: str | None) -> Data:
    """The output as Data; the bare value that a task call returned stands under "result"."""
    if not text or text == "{}":
        return Data.EMPTY
    if text.startswith("{"):
        return Data.from_json(text)
    return Data.from_json(f'{{"result":{text}}}')


def _shown_call(text: str) -> Data:
    call = json.loads(text)
    args = {"args": call["args"]} if call.get("args") else {}
    # Celery's JSON knows a little more than Data (infinity, for one): shown, not checked.
    return Data.from_json(json.dumps(args | call.get("kwargs", {})))


def result_of(
    connection: Connection, work_id: str, *, extended: bool = False
) -> tuple[Any, list[tuple[str, str]]] | None:
    """What a result backend needs of a work: its row, and the ids and workers of those that depend on it directly.

    `extended`: what was called, too.
    """
    columns: tuple[Any, ...] = (
        work.c.id, work.c.state, work.c.output, work.c.error, work.c.options, work.c.finished_at, work.c.worker,
        work.c.progress, work.c.runs, work.c.has_children,
    )  # fmt: skip
    if extended:
        columns += (work.c.input, work.c.queue, work.c.run_attempt_count)
    row = connection.execute(select(*columns).where(work.c.id == work_id)).first()
    if row is None:
        return None
    children: list[tuple[str, str]] = []
    if row.has_children and State(row.state).is_finished:
        below = select(work.c.id, work.c.worker).join(edge, edge.c.child == work.c.id)
        found = connection.execute(below.where(edge.c.parent == work_id).order_by(work.c.id))
        children = [(child.id, child.worker) for child in found]
    return row, children


_OPEN = Sentence(
    select(work.c.id).where(
        work.c.id == bindparam("id"),
        state_in(UNFINISHED),
        ~exists().where(result.c.key == bindparam("key")),
    )
)


def is_open(connection: Connection, work_id: str, key: str) -> bool:
    """Whether a work hasn't finished, and nobody has kept a result of it under `key`."""
    return bool(_OPEN.say(connection, {"id": work_id, "key": key}))
