"""Jobs that wait for their moment: how late they start, and what they cost the worker while they wait."""

from __future__ import annotations

import time

from tests.benchmarks import catalogue as c
from tests.benchmarks.bench import Bench, Measured, Row
from tests.benchmarks.figures import percentile
from tests.benchmarks.system import PATIENCE, System, Workers

#: Seconds before the first moment at which everything has been enqueued, and memory is looked at; at most.
_QUIET = 1.0
#: How much longer the first job waits where enqueuing them all took too long.
_PATIENT = (1, 4, 16)


def measure(bench: Bench, system: System, spread: float | None = None) -> Measured:
    """Jobs due one after the other (`spread` seconds from the first to the last), all enqueued before."""
    for longer in _PATIENT:
        measured = _attempt(bench, system, bench.sizes.ahead * longer, bench.sizes.spread if spread is None else spread)
        if measured is not None:
            return measured
        bench.release()  # with all that it may hold of this attempt
    raise TimeoutError(f"expected {bench.sizes.scheduled} enqueues within {bench.sizes.ahead * _PATIENT[-1]} s")


def _attempt(bench: Bench, system: System, ahead: float, spread: float) -> Measured | None:
    """The figures; None if the enqueues took longer than the first job was to wait."""
    count = bench.sizes.scheduled
    with bench.idle_worker(system) as workers:
        before = _memory(workers)
        offset = time.time() - time.monotonic()
        first = time.monotonic() + ahead
        dues = [first + spread * number / count for number in range(count)]
        system.call("enqueue_due", 0, [due + offset for due in dues])
        left = first - time.monotonic() - min(_QUIET, ahead / 8)
        if left < 0:
            return None
        time.sleep(left)
        waiting = _memory(workers)
        bench.marks.wait(count, ahead + spread + PATIENCE, workers.check)
    late = [(bench.marks.get(number) - due) * 1e3 for number, due in enumerate(dues)]
    return {
        "late p50 ms": percentile(late, 0.5),
        "late p99 ms": percentile(late, 0.99),
        "latest ms": max(late),
        "earliest ms": min(late),
        "worker grows by MiB": waiting - before,
    }


def measure_burst(bench: Bench, system: System) -> Measured:
    """All at the same moment: so many at once are late by what it takes to run them."""
    return measure(bench, system, 0.0)


def _memory(workers: Workers) -> float:
    """The resident memory of a worker's parent process, which holds what waits."""
    return float(sum(each.memory_info().rss for each in workers.roots)) / 2**20


_SYSTEMS = (c.REFERENCE, c.SQLITE, c.POSTGRESQL, c.MARIADB)
SCHEDULED = Row("scheduled", "10 000 jobs due one after the other in 20 seconds", _SYSTEMS, measure, rounds=1)
BURST = Row("burst", "10 000 jobs due at one moment", _SYSTEMS, measure_burst, rounds=1)
