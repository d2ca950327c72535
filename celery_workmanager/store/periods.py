"""Ends of periods: where a periodic work stands from now on, and the history of its runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from sqlalchemy import BigInteger, Connection, Integer, String, Update, bindparam, delete, func, insert, select, update

from celery_workmanager.lanes import lane_with
from celery_workmanager.lifecycle import Move, leaves, reaches
from celery_workmanager.outcome import Claim, Standing
from celery_workmanager.periods import Periodicity
from celery_workmanager.store.deleting import chunks
from celery_workmanager.store.many import Given, Many
from celery_workmanager.store.rows import period_deadline
from celery_workmanager.tables import run, state_in, work
from celery_workmanager.terms import Terms
from celery_workmanager.verdict import EndedRun, PeriodicPart, Verdict
from celery_workmanager.work import RunOutcome, State, StopReason

#: A row of the history but for its number, and how many the work keeps.
_Entry: TypeAlias = tuple[dict[str, Any], int]


def _mine(change: Update, given: Given) -> Update:
    return change.where(work.c.id == given["key"], work.c.token == given["of_run"], state_in(leaves(Move.END_PERIOD)))


def _standing(change: Update, given: Given) -> Update:
    return _mine(change, given).values(
        period_count=given["count"], period_at=given["at"], override_at=given["override"]
    )


_STAND = Many(
    {"key": String, "of_run": BigInteger, "count": Integer, "at": BigInteger, "override": BigInteger}, _standing
)
_MOVE = Many(
    {"key": String, "of_run": BigInteger, "at": BigInteger},
    lambda change, given: _mine(change, given).values(period_at=given["at"]),
)
_TRIM = delete(run).where(run.c.work == bindparam("key"), run.c.number <= bindparam("gone"))


def let_go(connection: Connection, verdicts: list[Verdict]) -> list[Verdict]:
    """The verdicts; those on periods that a run has ended itself (see `completing`) only let go of their works."""
    ended: dict[str, Any] = {}
    columns = (work.c.id, work.c.run_at, work.c.enqueued_at, work.c.error)
    for some in chunks([verdict.id for verdict in verdicts if verdict.period is not None]):
        waiting = select(*columns).where(work.c.id.in_(some), work.c.finished_at.is_not(None))
        ended |= {row.id: row for row in connection.execute(waiting)}
    return [_letting_go(each, ended[each.id]) if each.id in ended else each for each in verdicts]


def write(connection: Connection, verdicts: Iterable[Verdict]) -> None:
    """Write what periodic works have beside others, before their tokens go; their rows are locked.

    A verdict that keeps the output of an earlier run is given it here.
    """
    parts = {verdict: verdict.period for verdict in verdicts if verdict.period is not None}
    rows: dict[str, Any] = {}
    columns = (work.c.id, work.c.state, work.c.started_at, work.c.output)
    for some in chunks([verdict.id for verdict in parts]):
        rows |= {row.id: row for row in connection.execute(select(*columns).where(work.c.id.in_(some)))}
    for verdict, part in parts.items():
        if part.keeps_output:
            verdict.output = rows[verdict.id].output
    standings = [_standing_binds(each, part.standing) for each, part in parts.items() if part.standing is not None]
    _STAND.write(connection, standings)
    _renew_deadlines(connection, [verdict for verdict, part in parts.items() if part.has_deadline])
    _remember(
        connection, [_entry(each, part.run, rows[each.id]) for each, part in parts.items() if part.run is not None]
    )


def _renew_deadlines(connection: Connection, verdicts: Sequence[Verdict]) -> None:
    """The next runs wait for their constraints again, until their own deadlines."""
    by_id = {verdict.id: verdict for verdict in verdicts}
    columns = (work.c.id, work.c.queue, work.c.worker, work.c.options)
    for some in chunks(sorted(by_id)):
        for row in connection.execute(select(*columns).where(work.c.id.in_(some))).all():
            verdict, options = by_id[row.id], json.loads(row.options)
            renewed = period_deadline(options, verdict.run_at) | {"lane": lane_with(row.queue, row.worker, options)}
            mine = update(work).where(work.c.id == row.id, work.c.token == verdict.token)
            connection.execute(mine.values(**renewed))


def write_moved(connection: Connection, claims: Iterable[Claim]) -> None:
    """Write which occurrence the run of each claim stands for, where that is not the one that was due."""
    moved = [{"key": each.id, "of_run": each.token, "at": each.standing.at} for each in claims if each.standing]
    _MOVE.write(connection, moved)


def _letting_go(verdict: Verdict, row: Any) -> Verdict:
    return replace(
        verdict,
        move=Move.END_PERIOD,
        state=reaches(Move.END_PERIOD),
        run_attempt_count=0,
        interruptions=0,
        finished_at=None,
        prune_at=None,
        run_at=row.run_at,
        enqueued_at=row.enqueued_at,
        stop_reason=StopReason.NOT_STOPPED,
        error=row.error,
        keeps_progress=False,
        period=PeriodicPart(),
        input=None,
    )


def _standing_binds(verdict: Verdict, standing: Standing) -> dict[str, Any]:
    return {
        "key": verdict.id,
        "of_run": verdict.token,
        "count": standing.count,
        "at": standing.at,
        "override": standing.override_at,
    }


def write_cancelled(connection: Connection, ids: Sequence[str], now: int, terms: Terms, reason: StopReason) -> None:
    """Keep the runs of periodic works that are cancelled while they run; their rows are locked."""
    entries: list[_Entry] = []
    columns = (
        work.c.id, work.c.period_count, work.c.period_at, work.c.started_at, work.c.node, work.c.options,
    )  # fmt: skip
    for some in chunks(ids):
        # Of a run that has ended its period itself there is an entry.
        for row in connection.execute(select(*columns).where(work.c.id.in_(some), work.c.finished_at.is_(None))):
            period = Periodicity.of(json.loads(row.options)) or Periodicity()
            values = {
                "work": row.id,
                "period": row.period_count,
                "scheduled_at": row.period_at,
                "started_at": row.started_at,
                "finished_at": now,
                "node": row.node,
                "outcome": RunOutcome.CANCELLED.name,
                "stop_reason": int(reason),
                "output": None,
                "error": None,
            }
            entries.append((values, terms.keep_runs if period.keep is None else period.keep))
    _remember(connection, entries)


def _remember(connection: Connection, entries: Sequence[_Entry]) -> None:
    """Number the runs of `entries`, write them, and delete what is beyond what each work keeps."""
    entries = [(values, keep) for values, keep in entries if keep]
    if not entries:
        return
    last: dict[str, int] = {}
    for some in chunks([values["work"] for values, _ in entries]):
        newest = select(run.c.work, func.max(run.c.number)).where(run.c.work.in_(some)).group_by(run.c.work)
        last |= dict(connection.execute(newest).all())
    numbered = [({**values, "number": last.get(values["work"], 0) + 1}, keep) for values, keep in entries]
    connection.execute(insert(run), [values for values, _ in numbered])
    gone = [
        {"key": values["work"], "gone": values["number"] - keep} for values, keep in numbered if values["number"] > keep
    ]
    if gone:
        connection.execute(_TRIM, gone)


def _entry(verdict: Verdict, ended: EndedRun, row: Any) -> _Entry:
    values = {
        "work": verdict.id,
        "period": ended.period,
        "scheduled_at": ended.scheduled_at,
        # A run whose start was written began then; of a lost one nothing else is known.
        "started_at": row.started_at if row.state == State.RUNNING else verdict.started_at,
        "finished_at": ended.finished_at,
        "node": verdict.node,
        "outcome": ended.outcome.name,
        "stop_reason": int(ended.stop_reason),
        "output": ended.output,
        "error": ended.error,
    }
    return values, ended.keep
