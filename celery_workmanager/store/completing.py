"""Ends that a worker writes in a transaction of its own, together with its own rows.

A finished work stays finished. A periodic one would be claimable again while this run still goes on: so its row keeps
the token, and `finished_at` says that the period has ended; the run's own end, or its heal, only lets go of it.
"""

from __future__ import annotations

from sqlalchemy import Connection, case, literal, select, update

from celery_workmanager.database import locking
from celery_workmanager.lifecycle import Move, leaves
from celery_workmanager.store import finishing, periods
from celery_workmanager.tables import state_in, work
from celery_workmanager.terms import Terms
from celery_workmanager.verdict import Verdict
from celery_workmanager.work import State


def complete(connection: Connection, verdict: Verdict, now: int, terms: Terms) -> bool:
    """Write the end of a run inside the caller's transaction; ``False`` when the run no longer owns its work."""
    if verdict.period is not None:
        columns = (work.c.id, work.c.token, work.c.state, work.c.generation, work.c.finished_at)
        row = connection.execute(locking(select(*columns).where(work.c.id == verdict.id), connection)).first()
        if row is None or row.token != verdict.token:
            return False
        if row.finished_at is not None:
            return True  # it has said so before
        (verdict,) = finishing.judged_by_present_options(connection, [verdict], {row.id: row})
    if verdict.move is Move.END_PERIOD:
        return _end_period(connection, verdict, now)
    return verdict.id in finishing.settle(connection, [verdict], now, terms, wait=True).accepted


def _end_period(connection: Connection, verdict: Verdict, now: int) -> bool:
    periods.write(connection, [verdict])
    guarded = update(work).where(
        work.c.id == verdict.id, work.c.token == verdict.token, state_in(leaves(Move.END_PERIOD))
    )
    ended = guarded.values(
        finished_at=now,
        enqueued_at=verdict.enqueued_at,
        run_at=verdict.run_at,
        # One start belongs to the run that still goes on, if it has been written.
        run_attempt_count=case((work.c.state == int(State.RUNNING), literal(1)), else_=literal(0)),
        interruptions=0,
        output=verdict.output,
        error=verdict.error,
        input=work.c.input if verdict.input is None else verdict.input,
        progress=None,
        version=work.c.version + 1,
    )
    return connection.execute(ended).rowcount == 1
