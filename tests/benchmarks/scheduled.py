"""Jobs that are all due at the same second: how late they start, and what they cost the worker while they wait."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import psutil

from tests.benchmarks.marks import Marks
from tests.benchmarks.measures import median, percentile
from tests.benchmarks.systems import System

_PATIENCE = 120.0
#: Seconds before the moment at which everything has been enqueued, and memory is looked at.
_QUIET = 2.0
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Schedule:
    """How many jobs are due at one moment, and how many seconds lie between the first enqueue and that moment."""

    jobs: int
    ahead: float


@dataclass(slots=True)
class Punctuality:
    """The figures of one system: lateness in ms (one a job), the others one a round; memory in MiB."""

    late: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)
    before: list[float] = field(default_factory=list)
    waiting: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    #: Jobs that started, and jobs that were to start.
    started: int = 0
    asked: int = 0


def measure(system: System, marks: Marks, schedule: Schedule, figures: Punctuality) -> None:
    """One round: a worker that has run one job gets `schedule`, waits, and runs it. Raises when it had too little time.

    Nothing may be lost: it returns when every job has started, or raises TimeoutError.
    """
    marks.clear()
    system.reset()
    with system.worker() as worker:
        system.enqueue(0)
        marks.wait(1, _PATIENCE)
        figures.before.append(_memory(worker))
        due, at = time.time() + schedule.ahead, time.monotonic() + schedule.ahead
        system.enqueue_due(1, schedule.jobs, datetime.fromtimestamp(due, UTC))
        left = at - time.monotonic() - _QUIET
        if left < 0:
            raise TimeoutError(f"expected {schedule.jobs} enqueues within {schedule.ahead - _QUIET} s")
        time.sleep(left)
        figures.waiting.append(_memory(worker))
        marks.wait(schedule.jobs + 1, schedule.ahead + _PATIENCE)
        system.check_all_done(schedule.jobs + 1)
        figures.after.append(_memory(worker))
    late = [(marks.get(number) - at) * 1e3 for number in range(1, schedule.jobs + 1) if marks.get(number)]
    figures.late += late
    figures.last.append(max(late))
    figures.started += len(late)
    figures.asked += schedule.jobs


def _memory(worker: psutil.Process) -> float:
    """The resident memory of a worker's parent process, which holds what waits."""
    return float(worker.memory_info().rss) / _MIB


def table(figures: dict[str, Punctuality]) -> str:
    """Everything in one table; ratios are to the first system."""
    columns = (
        "| late p50 ms | ratio | late p99 ms | ratio | last ms | earliest ms | before MiB | waiting | after | started |"
    )
    lines = ["| " + columns, "|---" * 11 + "|"]
    first = next(iter(figures.values()))
    lines += [f"| {name} | {' | '.join(_cells(each, first))} |" for name, each in figures.items()]
    return "\n".join(lines)


def _cells(figures: Punctuality, reference: Punctuality) -> Iterator[str]:
    for part in (0.5, 0.99):
        own, other = percentile(figures.late, part), percentile(reference.late, part)
        yield f"{own:,.0f}"
        yield f"{own / other:.2f}"
    yield f"{median(figures.last):,.0f} ({min(figures.last):,.0f}–{max(figures.last):,.0f})"
    yield f"{min(figures.late):,.1f}"
    before = median(figures.before)
    yield f"{before:.0f}"
    for values in (figures.waiting, figures.after):
        yield f"{median(values):.0f} ({median(values) - before:+.0f})"
    yield f"{figures.started:,} of {figures.asked:,}"
