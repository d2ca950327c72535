"""``work periodic``: the works that repeat, when they run next, and how their last run ended."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click

from celery_workmanager.app import WorkManager
from celery_workmanager.cli import words
from celery_workmanager.cli.common import FINE, TROUBLE, command, limit_option, option, query, states_of
from celery_workmanager.cli.screen import Cell, Column, Screen, clean, number, span
from celery_workmanager.timing import moment
from celery_workmanager.work import RunInfo, RunOutcome, WorkInfo

_COLUMNS = (
    Column("NAME", least=12, ends_matter=True),
    Column("WORKER", least=12, ends_matter=True, may_go=True),
    Column("SCHEDULE", least=12),
    Column("NEXT"),
    Column("THEN", least=12, may_go=True),
    Column("CATCH-UP", may_go=True),
    Column("PERIODS", to_the_right=True, may_go=True),
    Column("LAST RUN", least=12, may_go=True),
)


@command("periodic")
@option(
    "-n", "--next", "count", type=click.IntRange(1, 1000), default=3, show_default=True, metavar="N",
    help="How many of the next run times.",
)  # fmt: skip
@limit_option(50, "How many works at most.")
@option("--after", metavar="ID", help="Go on after this work: the next page.")
def periodic_command(screen: Screen, manager: WorkManager, *, count: int, limit: int, after: str | None) -> int:
    """List the periodic works, the oldest first: schedule, next run times, catch-up, last outcome."""
    wanted = query(periodic=True, states=states_of(("UNFINISHED",)), limit=limit + 1, after=after)
    listed = manager.get_work_infos(wanted)
    works, more = listed[:limit], len(listed) > limit
    found = [(info, manager.next_run_times(info.id, count), _last_run(manager, info)) for info in works]
    if screen.as_json:
        documents = [_document(*each) for each in found]
        screen.json({"works": documents, "next": works[-1].id if works and more else None})
        return FINE if works else TROUBLE
    if not works:
        screen.say("No periodic works.")
        return TROUBLE
    screen.table(_COLUMNS, [_row(*each, now=manager.clock.now()) for each in found])
    if more:
        screen.say(f"… more: --after {works[-1].id}", dim=True)
    return FINE


def _last_run(manager: WorkManager, info: WorkInfo) -> RunInfo | None:
    return next(iter(manager.get_runs(info.id)), None)


def _document(info: WorkInfo, times: Sequence[datetime], last: RunInfo | None) -> dict[str, Any]:
    return {
        **info.to_dict(),
        "next_run_times": [at.isoformat() for at in times],
        "last_run": None if last is None else last.to_dict(),
    }


def _row(info: WorkInfo, times: Sequence[datetime], last: RunInfo | None, *, now: int) -> list[Cell | str]:
    known = info.periodicity_info
    assert known is not None  # noqa: S101  # it was asked for as periodic work
    first = "now" if info.node is not None else _in(times[0], now) if times else ""
    return [
        words.labels(info.unique_names) or info.id,
        clean(info.worker_name),
        clean(known.schedule),
        first,
        ", ".join(words.local(at) for at in times[1:]),
        known.catch_up.name,
        number(info.period_count),
        _ending(last, now),
    ]


def _in(at: datetime, now: int) -> str:
    due = moment(at)
    return f"in {span(due - now)}" if due > now else "now"


def _ending(last: RunInfo | None, now: int) -> Cell | str:
    if last is None:
        return ""
    style = {} if last.outcome is RunOutcome.SUCCEEDED else {"fg": "red"}
    return Cell(f"{last.outcome.name} {span(now - moment(last.finished_at))} ago", style)
