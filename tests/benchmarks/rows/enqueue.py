"""Enqueue: one by one, many at once, and under unique names."""

from __future__ import annotations

from contextlib import suppress

from tests.benchmarks import catalogue as c
from tests.benchmarks.bench import Bench, Measured, Row
from tests.benchmarks.servers import Absent
from tests.benchmarks.system import System

NAMED = "bulk with names and edges/s"
#: Jobs that open connections and fill caches before anything is measured.
_WARM_UP = 20


def measure(bench: Bench, system: System) -> Measured:
    """No worker runs."""
    single, bulk = bench.sizes.single, bench.bulk_size(system)
    system.call("reset")
    system.before()
    measured: dict[str, float] = {}
    with suppress(Absent):  # a floor has bulk only
        system.call("enqueue_each", 0, _WARM_UP)
        before = system.servers_cpu()
        each = system.call("enqueue_each", _WARM_UP, single)
        measured["single/s"] = single / each.seconds
        measured["producer CPU µs"] = each.cpu / single * 1e6
        if system.servers:
            measured["server CPU µs"] = (system.servers_cpu() - before) / single * 1e6
    measured["bulk/s"] = _rate(system, "enqueue_many", bulk)
    with suppress(Absent):  # only we have edges
        measured[NAMED] = _rate(system, "unique_bulk", bulk)
    system.call("reset")
    return measured


def _rate(system: System, method: str, count: int) -> float:
    system.call(method, 0, _WARM_UP)
    return count / system.call(method, _WARM_UP, count).seconds


def measure_unique(bench: Bench, system: System) -> Measured:
    """Each name once, and once more; none of the second may be accepted."""
    count = bench.sizes.single
    system.call("reset")
    system.before()
    for _ in range(2):
        system.call("unique", count, _WARM_UP)
    first, second = (system.call("unique", 0, count) for _ in range(2))
    if (first.value, second.value) != (count, 0):
        raise AssertionError(f"expected {count} and 0 accepted, got: {first.value}, {second.value}")
    system.call("reset")
    return {"first/s": count / first.seconds, "duplicate/s": count / second.seconds}


def measure_django(bench: Bench, system: System) -> Measured:
    """Transactions of Django's with one row each, and the same with a work each."""
    count = bench.sizes.single
    system.call("reset")
    system.call("transactions", _WARM_UP, True)
    alone, both = (system.call("transactions", count, enqueues).seconds for enqueues in (False, True))
    return {
        "transactions/s": count / alone,
        "with a work each/s": count / both,
        "added µs": (both - alone) / count * 1e6,
    }


ENQUEUE = Row(
    "enqueue",
    "Enqueue, one producer",
    (c.REFERENCE, c.RABBITMQ, *c.PEERS, c.SQLITE, c.POSTGRESQL, c.MARIADB, c.SLOW_POSTGRESQL, "COPY, bare"),
    measure,
)
UNIQUE = Row(
    "unique",
    "Enqueue under unique names, and the same names again",
    ("celery-once", "procrastinate", "pgqueuer", c.SQLITE, c.POSTGRESQL, c.MARIADB),
    measure_unique,
)
DJANGO = Row(
    "django",
    "Enqueue inside Django's transactions",
    ("Django on PostgreSQL", "Django on SQLite", "Django on MariaDB"),
    measure_django,
)
