"""Drain: how fast a full queue is emptied, from the first start to the last, and what processors it costs."""

from __future__ import annotations

from tests.benchmarks import catalogue as c
from tests.benchmarks.bench import Bench, Measured, Row
from tests.benchmarks.system import PATIENCE, System

RATE = "jobs/s"


def measure(bench: Bench, system: System, workers: int = 1) -> Measured:
    """Fill, then start workers; the time they need to boot doesn't count."""
    count = bench.drain_size(system)
    bench.fill(system, count)
    with system.workers(workers) as running:
        bench.marks.wait_any(count, PATIENCE, running.check)
        before, servers, begun = running.cpu(), system.servers_cpu(), bench.marks.begun(count)
        bench.marks.wait(count, PATIENCE, running.check)
        system.call("check_done", count)
        left = max(1, count - begun)
        costs = {"worker CPU µs": (running.cpu() - before) / left * 1e6}
        costs |= {"server CPU µs": (system.servers_cpu() - servers) / left * 1e6} if system.servers else {}
    return {RATE: (count - 1) / bench.marks.span(count), **costs}


DRAIN = Row(
    "drain",
    "Drain of no-op jobs with 30 bytes of arguments, concurrency 2",
    (
        c.REFERENCE,
        c.RABBITMQ,
        c.RESULTS_IN_SQL,
        *c.PEERS,
        c.SQLITE,
        c.POSTGRESQL,
        c.MARIADB,
        c.SLOW_SQLITE,
        c.SLOW_POSTGRESQL,
    ),
    measure,
)
POOLS = Row(
    "pools",
    "Drain on Celery's other pools: threads 2, solo 1, gevent 100",
    tuple(f"{each}, {pool}" for pool in c.POOLS for each in (c.REFERENCE, c.SQLITE, c.POSTGRESQL)),
    measure,
    rounds=3,
)
UNUSED = Row(
    "unused",
    "Drain of works that use nothing, beside works with constraints and limits, or with task events on",
    tuple(
        f"{store}{extra}"
        for store in (c.POSTGRESQL, c.SQLITE)
        for extra in ("", ", constraints and limits", ", events")
    ),
    measure,
)
LARGE = Row(
    "large",
    "Drain of jobs with 10 kB of arguments each",
    tuple(f"{each}, 10 kB" for each in (c.REFERENCE, c.SQLITE, c.POSTGRESQL, c.MARIADB)),
    measure,
    rounds=3,
)
LIMITS = Row(
    "limits",
    "Drain of works that each have a limit over the fleet",
    tuple(f"{store}{extra}" for store in (c.SQLITE, c.POSTGRESQL) for extra in ("", *c.LIMITS)),
    measure,
    rounds=3,
)


def measure_workers(bench: Bench, system: System) -> Measured:
    """The same with one to eight workers of two processes each."""
    return {f"{count} × 2, {RATE}": measure(bench, system, count)[RATE] for count in (1, 2, 4, 8)}


WORKERS = Row(
    "workers",
    "Drain by one to eight workers on one machine",
    (c.POSTGRESQL, c.SQLITE, c.MARIADB),
    measure_workers,
    rounds=1,
)


def measure_many(bench: Bench, system: System) -> Measured:
    """A million works in one go, and what they leave in the database."""
    count = bench.sizes.many
    patience = PATIENCE + count / 500
    filled = bench.fill(system, count, patience=patience)
    with system.workers() as running:
        bench.marks.wait(count, patience, running.check)
        system.call("check_done", count)
    size = system.call("size").value
    return {
        "enqueued/s": count / filled,
        RATE: (count - 1) / bench.marks.span(count),
        "table bytes a work": size["table"] / count,
        "index bytes a work": size["indexes"] / count,
        "database MiB": (size["table"] + size["indexes"]) / 2**20,
    }


MILLION = Row("million", "A million works in one go", (c.POSTGRESQL, c.SQLITE), measure_many, rounds=1)
