"""How works are told to people, alike in every command."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from celery_workmanager.cli.screen import LOOKS, Cell, clean, cut, number, plural, span
from celery_workmanager.timing import moment
from celery_workmanager.work import State, StopReason, WorkInfo

#: Longer notes are cut, however wide the terminal; `show` and --json have all.
_LONGEST_NOTE = 120


def state_cell(state: State) -> Cell:
    """A state with its sign, in its colour."""
    sign, style = LOOKS[state]
    return Cell(f"{sign} {state.name}", style)


def summary(states: Iterable[State]) -> str:
    """How many works are in each state: "1 RUNNING, 3 SUCCEEDED"."""
    counts = Counter(states)
    return ", ".join(f"{number(counts[state])} {state.name}" for state in LOOKS if counts[state])


def when(info: WorkInfo, now: int) -> str:
    """Since when it is as it is, or when it will be run."""
    if info.finished_at is not None and info.state.is_finished:
        return f"{span(now - moment(info.finished_at))} ago"
    if info.state is State.RUNNING and info.started_at is not None:
        return f"for {span(now - moment(info.started_at))}"
    if info.state is not State.ENQUEUED or info.next_schedule_time is None:
        return ""
    due = moment(info.next_schedule_time)
    if due > now:
        return f"in {span(due - now)}"
    return f"waits {span(now - due)}" if info.node is None else "starting"


def note(info: WorkInfo) -> str:
    """What there is to say beyond the state, on one line: its error, its progress, what it waits for."""
    if info.error is not None and info.state.is_finished:
        return cut(clean(str(info.error)), _LONGEST_NOTE)
    if info.state is State.BLOCKED:
        return _joined(f"after {plural(len(info.prerequisites), 'work')}", _paused(info))
    if info.state is State.RUNNING:
        return _joined(progress(info), _attempt(info))
    return _joined(_paused(info), _attempt(info)) if info.state is State.ENQUEUED else ""


def _joined(*parts: str) -> str:
    return ", ".join(filter(None, parts))


def _paused(info: WorkInfo) -> str:
    return "paused" if info.paused else ""


def progress(info: WorkInfo) -> str:
    """What the work says of its progress; a whole number under "percent" is read as such."""
    told = info.progress.to_dict()
    percent = told.pop("percent", None)
    shown = [f"{percent} %"] if isinstance(percent, int | float) else []
    if told:
        shown.append(cut(clean(json.dumps(told, ensure_ascii=False)), _LONGEST_NOTE))
    return " ".join(shown)


def _attempt(info: WorkInfo) -> str:
    """Which attempt it is after the first, and why the one before was stopped."""
    told = []
    if info.run_attempt_count > (info.state is State.RUNNING):
        told.append(f"attempt {number(info.run_attempt_count + (info.state is not State.RUNNING))}")
    if info.interruptions:
        told.append(f"interrupted {number(info.interruptions)} ×")
    if info.stop_reason is not StopReason.NOT_STOPPED:
        told.append(f"stopped: {info.stop_reason.name}")
    return ", ".join(told)


def local(at: datetime | None, pattern: str = "%Y-%m-%d %H:%M:%S") -> str:
    """A moment by this machine's clock on the wall."""
    return "" if at is None else at.astimezone().strftime(pattern)


def labels(values: Iterable[str]) -> str:
    """Names or tags on one line."""
    return ", ".join(clean(each) for each in sorted(values))


def deadline(info: WorkInfo) -> str:
    """From when on it runs whatever its node meets."""
    if isinstance(info.deadline, timedelta):
        return f"{info.deadline} after each run's moment"
    return local(info.deadline)


def limits(info: WorkInfo) -> str:
    """Its limits over the fleet."""
    at_once = [] if info.concurrency is None else [f"{info.concurrency.n} at once of {clean(info.concurrency.key)}"]
    rate = [] if info.rate is None else [f"{info.rate.n} in {info.rate.per} of {clean(info.rate.key)}"]
    return ", ".join(at_once + rate)


def indented(value: Any) -> str:
    """A JSON value over several lines."""
    return json.dumps(value, indent=2, ensure_ascii=False)
