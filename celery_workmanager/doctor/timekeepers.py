"""Who keeps time: beats and workers, who fires the app's entries, and whether somebody else does too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from celery_workmanager.app import WorkManager
from celery_workmanager.beat import schedule_name
from celery_workmanager.doctor.finding import Finding, note, several, warning
from celery_workmanager.doctor.fleet import Seen
from celery_workmanager.store.leasing import NodeRow
from celery_workmanager.store.scheduling import ScheduleRow
from celery_workmanager.timing import SECOND

_OURS = {"workmanager", "celery_workmanager.beat:WorkManagerScheduler"}
_CELERYS = "celery.beat:PersistentScheduler"
#: Celery's own scheduler writes its file every three minutes.
_FRESH = 600 * SECOND
_SUFFIXES = ("", ".db", ".dat")


def told(manager: WorkManager, seen: Seen, schedules: Sequence[ScheduleRow]) -> str:
    """Who keeps time, in a sentence."""
    workers, beats = len(seen.alive), sorted({node.name for node in seen.beats})
    kept = [f"{workers} worker{'' if workers == 1 else 's'}"] if workers else []
    kept += [several(beats)] if beats else []
    if not kept:
        return "Nobody keeps time."
    holder = _holder(manager, seen, schedules)
    fires = "" if holder is None else f"; {holder.name} (pid {holder.pid}) fires the entries of beat_schedule"
    return f"Time is kept by {' and '.join(kept)}{fires}."


def examine_time(manager: WorkManager, seen: Seen, schedules: Sequence[ScheduleRow]) -> Iterator[Finding]:
    """Entries that nobody fires, or that two fire."""
    conf = manager.app.conf
    scheduler, entries = str(conf.beat_scheduler), sorted(map(str, conf.beat_schedule or ()))
    if entries and _holder(manager, seen, schedules) is None:
        yield _unfired(scheduler, entries)
    if not seen.beats:
        return
    if scheduler not in _OURS | {_CELERYS}:
        yield warning(
            "second-scheduler",
            f"beat_scheduler is {scheduler}, and beats of this store run too.",
            "A beat that is started without -S workmanager sends its own entries beside those of this store.",
            "Stop it, bring its entries over (`celery -A proj work import-schedules`), and set "
            'beat_scheduler = "workmanager".',
        )
    file = _written_lately(str(conf.beat_schedule_filename), seen.now)
    if file is not None:
        yield warning(
            "second-scheduler",
            f"Celery's own scheduler wrote its file {file} in the last ten minutes, and beats of this store run too.",
            "Both send the entries of beat_schedule: each task is sent twice.",
            'Stop that beat, or start it with -S workmanager (or beat_scheduler = "workmanager").',
        )


def _unfired(scheduler: str, entries: list[str]) -> Finding:
    seen, do = f"No beat of this store fires the entries of beat_schedule: {several(entries)}.", (
        'Set beat_scheduler = "workmanager", and start `celery -A proj beat` or a worker with -B.'
    )  # fmt: skip
    if scheduler in _OURS:
        return warning("no-beat", seen, "Nothing of it is sent; works are kept time for by workers.", do)
    means = f"They are left to {scheduler}, of which one may run at a time, and which keeps what it knows by itself."
    return note("no-beat", seen, means, do)


def _holder(manager: WorkManager, seen: Seen, schedules: Sequence[ScheduleRow]) -> NodeRow | None:
    name = schedule_name(manager.app)
    holders = {row.holder for row in schedules if row.name == name and row.lease_until >= seen.now}
    return next((node for node in seen.beats if node.id in holders), None)


def _written_lately(name: str, now: int) -> Path | None:
    return next((file for file in (Path(name + end) for end in _SUFFIXES) if _age(file, now) < _FRESH), None)


def _age(file: Path, now: int) -> Any:
    try:
        return now - file.stat().st_mtime_ns // 1000
    except OSError:
        return float("inf")
