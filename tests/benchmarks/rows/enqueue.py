"""Enqueue: one by one, many at once, and under unique names."""

from __future__ import annotations

from contextlib import suppress

from tests.benchmarks import catalogue as c
from tests.benchmarks.bench import Bench, Measured, Row
from tests.benchmarks.servers import Absent
from tests.benchmarks.system import System


def measure(bench: Bench, system: System) -> Measured:
    """No worker runs."""
    single, bulk = bench.sizes.single, bench.sizes.drain // 2
    system.call("reset")
    measured: dict[str, float] = {}
    with suppress(Absent):  # a floor has bulk only
        system.call("enqueue_each", 0, 1)  # connections, caches
        before = _cpu(system)
        each = system.call("enqueue_each", 1, single)
        measured["single/s"] = single / each.seconds
        measured["producer CPU µs"] = each.cpu / single * 1e6
        if system.servers:
            measured["server CPU µs"] = (_cpu(system) - before) / single * 1e6
    measured["bulk/s"] = bulk / system.call("enqueue_many", single + 1, bulk).seconds
    with suppress(Absent):  # only we have edges
        measured["bulk with names and edges/s"] = bulk / system.call("unique_bulk", single + bulk + 1, bulk).seconds
    system.call("reset")
    return measured


def _cpu(system: System) -> float:
    return sum(server.cpu() or 0.0 for server in system.servers)


def measure_unique(bench: Bench, system: System) -> Measured:
    """Each name once, and once more; none of the second may be accepted."""
    count = bench.sizes.single
    system.call("reset")
    system.call("unique", count, 1)
    first, second = (system.call("unique", 0, count) for _ in range(2))
    if (first.value, second.value) != (count, 0):
        raise AssertionError(f"expected {count} and 0 accepted, got: {first.value}, {second.value}")
    system.call("reset")
    return {"first/s": count / first.seconds, "duplicate/s": count / second.seconds}


def measure_django(bench: Bench, system: System) -> Measured:
    """Transactions of Django's with one row each, and the same with a work each."""
    count = bench.sizes.single
    system.call("reset")
    system.call("transactions", 1, True)
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
    "django", "Enqueue inside Django's transactions", ("Django on PostgreSQL", "Django on SQLite"), measure_django
)
