"""``work list`` and ``work show``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click

from celery_workmanager.app import WorkManager
from celery_workmanager.cli import words
from celery_workmanager.cli.common import (
    FINE,
    TROUBLE,
    StateType,
    command,
    filter_option,
    limit_option,
    option,
    query,
    read,
    states_of,
)
from celery_workmanager.cli.screen import LOOKS, Cells, Column, Screen, clean, number, span
from celery_workmanager.overview import dependents
from celery_workmanager.timing import SECOND, moment
from celery_workmanager.work import StopReason, WorkInfo

_COLUMNS = (
    Column("ID", least=36),
    Column("STATE"),
    Column("WORKER", least=12, ends_matter=True),
    Column("WHEN", may_go=True),
    Column("NOTE", least=12, may_go=True),
    Column("NAME", least=12, may_go=True),
    Column("TAGS", least=12, may_go=True),
    Column("QUEUE", least=12, may_go=True),
)
#: Related works that `show` prints; with --json it gives all it reads.
_MOST_RELATED = 20


@command("list")
@filter_option(
    "--state",
    "states",
    type=StateType(),
    metavar="STATE",
    help="In this state (enqueued, failed …); also finished, unfinished.",
)
@filter_option("--tag", "tags", metavar="TAG", help="With this tag.")
@filter_option("--name", "unique_names", metavar="NAME", help="Of this unique name.")
@filter_option("--queue", "queues", metavar="QUEUE", help="In this queue.")
@filter_option("--worker", "workers", metavar="WORKER", help="For this worker (a task's name).")
@filter_option("--node", "nodes", metavar="NODE", help="Held by this node (its name or id).")
@limit_option(50, "How many works at most.")
@option("--after", metavar="ID", help="Go on after this work: the next page.")
@option("--oldest", is_flag=True, help="The oldest first.")
def list_command(
    screen: Screen, manager: WorkManager, *, states: tuple[str, ...], limit: int, oldest: bool, **fields: Any
) -> int:
    """List works, the newest first.

    Filters of one kind add up, those of different kinds must all match.
    """
    wanted = query(states=states_of(states), limit=limit + 1, newest_first=not oldest, **fields)
    found = manager.get_work_infos(wanted)
    works, more = found[:limit], len(found) > limit
    if screen.as_json:
        screen.json({"works": [info.to_dict() for info in works], "next": works[-1].id if more else None})
    elif works:
        show_works(screen, manager, works)
        if more:
            screen.say(f"… more: --after {works[-1].id}", dim=True)
    else:
        screen.say("No works.")
    return FINE if works else TROUBLE


def show_works(screen: Screen, manager: WorkManager, works: Sequence[WorkInfo]) -> None:
    """Print a table of works."""
    screen.table(_COLUMNS, list(_rows(manager, works)))


def _rows(manager: WorkManager, works: Sequence[WorkInfo]) -> Iterator[Cells]:
    now = manager.clock.now()
    default = manager.app.conf.task_default_queue
    for info in works:
        yield [
            info.id,
            words.state_cell(info.state),
            clean(info.worker_name),
            words.when(info, now),
            words.note(info),
            words.labels(info.unique_names),
            words.labels(info.tags - {info.worker_name}),
            "" if info.queue == default else clean(info.queue),
        ]


# -- one work ----------------------------------------------------------------------------------------------------


@command("show")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
def show_command(screen: Screen, manager: WorkManager, *, ids: tuple[str, ...]) -> int:
    """Show all that is known of works."""
    found = manager.get_work_infos(query(ids=ids))
    if screen.as_json:
        screen.json({"works": [document(manager, info) for info in found]})
    else:
        for number_, info in enumerate(found):
            if number_:
                screen.say()
            _show(screen, manager, info)
    return FINE if not missing(screen, ids, found) else TROUBLE


def missing(screen: Screen, ids: Sequence[str], found: Sequence[WorkInfo]) -> list[str]:
    """Say which of `ids` there are no works of."""
    known = {info.id for info in found}
    unknown = [each for each in dict.fromkeys(ids) if each not in known]
    for each in unknown:
        screen.warn(f"No work has the id {clean(each)}: it never existed, or it was pruned.")
    return unknown


def document(manager: WorkManager, info: WorkInfo) -> dict[str, Any]:
    """A work as JSON, with the works that depend on it."""
    return {**info.to_dict(), "dependents": read(manager.store, lambda connection: dependents(connection, info.id))}


def _show(screen: Screen, manager: WorkManager, info: WorkInfo) -> None:
    sign, style = LOOKS[info.state]
    screen.say(f"{sign} {info.state.name}  {info.id}", **style)
    for title, value in facts(info, manager.clock.now()):
        if value:
            screen.say(f"  {title:<13} {value}")
    _show_related(screen, manager, "after", list(info.prerequisites))
    _show_related(screen, manager, "before", read(manager.store, lambda connection: dependents(connection, info.id)))
    for title, data in (("input", info.input_data), ("progress", info.progress), ("output", info.output_data)):
        if data:
            _show_block(screen, title, words.indented(data.to_dict()))
    if info.error is not None:
        _show_block(screen, "error", "\n".join(filter(None, (str(info.error), info.error.traceback.rstrip()))))


def facts(info: WorkInfo, now: int) -> Iterator[tuple[str, str]]:
    """What there is to say of a work, each under its title; a title without a value has nothing to say."""
    yield "worker", clean(info.worker_name)
    yield "queue", clean(info.queue) + (f", priority {info.priority}" if info.priority else "")
    yield "unique names", words.labels(info.unique_names)
    yield "tags", words.labels(info.tags - {info.worker_name})
    yield "delay", "" if not info.initial_delay else str(info.initial_delay)
    yield "enqueued", words.local(info.enqueued_at)
    yield (
        "next run",
        words.local(info.next_schedule_time) and f"{words.local(info.next_schedule_time)}, {words.when(info, now)}",
    )
    yield "started", words.local(info.started_at)
    yield "finished", words.local(info.finished_at) and f"{words.local(info.finished_at)}, {words.when(info, now)}"
    if info.started_at and info.finished_at:
        yield "took", _length(moment(info.finished_at) - moment(info.started_at))
    yield "attempts", number(info.run_attempt_count) if info.run_attempt_count else ""
    yield "interrupted", f"{number(info.interruptions)} ×" if info.interruptions else ""
    yield "stopped", "" if info.stop_reason is StopReason.NOT_STOPPED else info.stop_reason.name
    yield "paused", ("its next run waits until it is resumed" if info.node else "yes") if info.paused else ""
    yield "node", clean(info.node or "")
    yield "retry of", info.retry_of or ""


def _length(microseconds: int) -> str:
    return f"{microseconds / SECOND:.3f} s" if microseconds < 10 * SECOND else span(microseconds)


def _show_related(screen: Screen, manager: WorkManager, title: str, ids: list[str]) -> None:
    if not ids:
        return
    works = manager.infos_of(ids[:_MOST_RELATED])
    for at, line in enumerate(screen.lines([Column("")] * 3, [_related(info) for info in works])):
        screen.say(f"  {title if not at else '':<13} {line}")
    if len(ids) > len(works):
        screen.say(f"  {'':<13} … and {number(len(ids) - len(works))} more", dim=True)


def _related(info: WorkInfo) -> Cells:
    return [words.state_cell(info.state), info.id, clean(info.worker_name)]


def _show_block(screen: Screen, title: str, text: str) -> None:
    screen.say(f"  {title}")
    for line in text.splitlines():
        screen.say(f"    {clean(line)}")
