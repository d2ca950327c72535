"""Drain: how fast a full queue is emptied, from the first start to the last, and what processors it costs."""

from __future__ import annotations

from tests.benchmarks import catalogue as c
from tests.benchmarks.bench import PATIENCE, Bench, Measured, Row
from tests.benchmarks.system import System

RATE = "jobs/s"


def measure(bench: Bench, system: System, workers: int = 1) -> Measured:
    """Fill, then start workers; the time they need to boot doesn't count."""
    count = bench.drain_size(system)
    bench.marks.clear()
    system.call("reset")
    system.call("enqueue_many", 0, count)
    with system.workers(workers) as running:
        bench.marks.wait_any(count, PATIENCE)
        before, servers, begun = running.cpu(), _cpu(system), bench.marks.begun(count)
        bench.marks.wait(count, PATIENCE)
        system.call("check_done", count)
        left = max(1, count - begun)
        costs = {"worker CPU µs": (running.cpu() - before) / left * 1e6}
        costs |= {"server CPU µs": (_cpu(system) - servers) / left * 1e6} if system.servers else {}
    return {RATE: (count - 1) / bench.marks.span(count), **costs}


def _cpu(system: System) -> float:
    return sum(server.cpu() or 0.0 for server in system.servers)


DRAIN = Row(
    "drain",
    "Drain of no-op jobs, concurrency 2",
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
    "Drain on Celery's other pools",
    tuple(f"{each}, {pool}" for pool in c.POOLS for each in (c.REFERENCE, c.SQLITE, c.POSTGRESQL)),
    measure,
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
    (f"{c.REFERENCE}, 10 kB", f"{c.SQLITE}, 10 kB", f"{c.POSTGRESQL}, 10 kB"),
    measure,
)


def measure_workers(bench: Bench, system: System) -> Measured:
    """The same with one to eight workers of two processes each."""
    return {f"{count} × 2, {RATE}": measure(bench, system, count)[RATE] for count in (1, 2, 4, 8)}


WORKERS = Row("workers", "Drain by one to eight workers on one machine", (c.POSTGRESQL, c.SQLITE), measure_workers)


def measure_many(bench: Bench, system: System) -> Measured:
    """A million works in one go, and what they leave in the database."""
    count = bench.sizes.many
    bench.marks.clear()
    system.call("reset")
    filled = system.call("enqueue_many", 0, count).seconds
    with system.workers():
        bench.marks.wait(count, PATIENCE + count / 500)
        system.call("check_done", count)
    size = system.call("size").value
    return {
        "enqueued/s": count / filled,
        RATE: (count - 1) / bench.marks.span(count),
        "table bytes a work": size["table"] / count,
        "index bytes a work": size["indexes"] / count,
    }


MILLION = Row("million", "A million works in one go", (c.POSTGRESQL, c.SQLITE), measure_many)
