"""Jobs that wait for their moment: how late they start, and what they cost the worker while they wait."""

from __future__ import annotations

import time

from tests.benchmarks import catalogue as c
from tests.benchmarks.bench import Bench, Measured, Row
from tests.benchmarks.figures import percentile
from tests.benchmarks.system import PATIENCE, System, Workers

#: Seconds before the first moment at which everything has been enqueued, and memory is looked at; at most.
_QUIET = 1.0


def measure(bench: Bench, system: System, spread: float | None = None) -> Measured:
    """Jobs due one after the other (`spread` seconds from the first to the last), all enqueued before."""
    sizes, count = bench.sizes, bench.sizes.scheduled
    spread = sizes.spread if spread is None else spread
    with bench.idle_worker(system) as workers:
        before = _memory(workers)
        offset = time.time() - time.monotonic()
        first = time.monotonic() + sizes.ahead
        dues = [first + spread * number / count for number in range(count)]
        system.call("enqueue_due", 0, [due + offset for due in dues])
        quiet = min(_QUIET, sizes.ahead / 8)
        left = first - time.monotonic() - quiet
        if left < 0:
            raise TimeoutError(f"expected {count} enqueues within {sizes.ahead - quiet} s")
        time.sleep(left)
        waiting = _memory(workers)
        bench.marks.wait(count, sizes.ahead + spread + PATIENCE, workers.check)
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
