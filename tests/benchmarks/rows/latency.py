"""Latency of an idle system, from the call that enqueues to the start and to the end as the producer sees it."""

from __future__ import annotations

from tests.benchmarks import catalogue as c
from tests.benchmarks.bench import Bench, Measured, Row
from tests.benchmarks.figures import percentile
from tests.benchmarks.system import System

_WARM_UP = 3


def measure(bench: Bench, system: System) -> Measured:
    """One job at a time, with a rest between them."""
    with bench.idle_worker(system):
        system.call("latencies", _WARM_UP)
        bench.marks.clear()
        starts, ends = system.call("latencies", bench.sizes.samples).value
    return {
        "start p50 ms": percentile(starts, 0.5),
        "start p99 ms": percentile(starts, 0.99),
        "done p50 ms": percentile(ends, 0.5),
        "done p99 ms": percentile(ends, 0.99),
    }


LATENCY = Row(
    "latency",
    "Idle latency",
    (c.REFERENCE, c.RABBITMQ, c.RESULTS_IN_SQL, *c.PEERS, c.SQLITE, c.POSTGRESQL, c.MARIADB),
    measure,
    rounds=3,
)
