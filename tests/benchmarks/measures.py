"""What is measured of a system in one round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.benchmarks.marks import Marks
from tests.benchmarks.systems import System, cpu_of

_PATIENCE = 300.0
#: Seconds in which nothing happens before the next job of a latency measurement.
_REST = 0.04


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many jobs each measurement takes."""

    drain: int
    single: int
    samples: int


@dataclass(slots=True)
class Figures:
    """The figures of one system, one value a round (latencies: one a job); rates in jobs a second, times in ms."""

    drain: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    single: list[float] = field(default_factory=list)
    bulk: list[float] = field(default_factory=list)
    start: list[float] = field(default_factory=list)
    done: list[float] = field(default_factory=list)


def measure(system: System, marks: Marks, sizes: Sizes, figures: Figures) -> None:
    """One round: fill, drain, then single jobs on an idle worker."""
    marks.clear()
    system.reset()
    system.enqueue(0)  # connections, caches
    figures.single.append(_rate(sizes.single, lambda: [system.enqueue(n) for n in range(1, sizes.single + 1)]))
    first = sizes.single + 1
    left = sizes.drain - first
    figures.bulk.append(_rate(left, lambda: system.enqueue_many(first, left)))
    with system.worker() as worker:
        marks.wait(1, _PATIENCE)
        before = cpu_of(worker)
        marks.wait(sizes.drain, _PATIENCE)
        figures.drain.append((sizes.drain - 1) / marks.span(sizes.drain))
        system.check_all_done(sizes.drain)
        figures.cpu.append((cpu_of(worker) - before) / sizes.drain * 1e6)
        marks.clear()
        for number in range(sizes.samples):
            time.sleep(_REST)
            start, done = _latency(system, marks, number)
            figures.start.append(start)
            figures.done.append(done)


def _rate(count: int, fill: Callable[[], object]) -> float:
    begun = time.perf_counter()
    fill()
    return count / (time.perf_counter() - begun)


def _latency(system: System, marks: Marks, number: int) -> tuple[float, float]:
    """Milliseconds from the call that enqueues to the start of the job, and to its result in the caller's hands."""
    begun = time.monotonic()
    system.enqueue(number).get(timeout=60, interval=0.002)
    done = time.monotonic()
    return (marks.get(number) - begun) * 1e3, (done - begun) * 1e3


def percentile(values: list[float], part: float) -> float:
    """The value that `part` (0 … 1) of `values` don't exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(part * (len(ordered) - 1)))]


def median(values: list[float]) -> float:
    """The middle value; 0 of none."""
    return statistics.median(values) if values else 0.0
