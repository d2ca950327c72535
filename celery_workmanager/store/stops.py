"""The ledger of stops: when, why and where the runs of a work were stopped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, delete, func, insert, select

from celery_workmanager.store.deleting import chunks
from celery_workmanager.tables import stop, work
from celery_workmanager.terms import Terms
from celery_workmanager.verdict import Verdict
from celery_workmanager.work import State, StopReason

_LAST = select(func.max(stop.c.number)).where(stop.c.work == work.c.id).scalar_subquery()
_TRIM = delete(stop).where(stop.c.work == bindparam("key"), stop.c.number <= bindparam("gone"))


class _Stopped(NamedTuple):
    reason: StopReason
    #: As far as the run's node knows (microseconds).
    started_at: int | None = None


def write_ends(connection: Connection, verdicts: Iterable[Verdict], now: int, terms: Terms) -> None:
    """Write the stops among the ends of runs, before these let go of their works; the rows are locked."""
    stopped = {
        verdict.id: _Stopped(reason, verdict.started_at)
        for verdict in verdicts
        if (reason := _reason_of(verdict)) is not StopReason.NOT_STOPPED
    }
    _write(connection, stopped, now, terms.keep_stops)


def _reason_of(verdict: Verdict) -> StopReason:
    # The period after a run that was given up begins without a reason; the run had one.
    run = None if verdict.period is None else verdict.period.run
    return verdict.stop_reason if run is None else run.stop_reason


def write_cancelled(connection: Connection, ids: Sequence[str], now: int, terms: Terms, reason: StopReason) -> None:
    """Write that works are cancelled while they run; their rows are locked."""
    _write(connection, dict.fromkeys(ids, _Stopped(reason)), now, terms.keep_stops)


def _write(connection: Connection, stopped: Mapping[str, _Stopped], now: int, keep: int) -> None:
    if not stopped or not keep:
        return
    columns = (work.c.id, work.c.state, work.c.started_at, work.c.node, work.c.run_attempt_count, _LAST.label("last"))
    entries: list[dict[str, Any]] = []
    for some in chunks(sorted(stopped)):
        for row in connection.execute(select(*columns).where(work.c.id.in_(some))):
            # A run whose start was written began then, and is counted already.
            was_written = row.state == State.RUNNING
            entries.append(
                {
                    "work": row.id,
                    "number": (row.last or 0) + 1,
                    "reason": int(stopped[row.id].reason),
                    "at": now,
                    "started_at": row.started_at if was_written else stopped[row.id].started_at,
                    "node": row.node,
                    "run_attempt_count": row.run_attempt_count + (not was_written),
                }
            )
    connection.execute(insert(stop), entries)
    gone = [{"key": each["work"], "gone": each["number"] - keep} for each in entries if each["number"] > keep]
    if gone:
        connection.execute(_TRIM, gone)
