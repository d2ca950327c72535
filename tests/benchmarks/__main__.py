"""`python -m tests.benchmarks`: drain, enqueue and idle latency beside plain Celery on Redis, in one run, alternating.

`--quick` is for CI: small counts, and it fails only when a benchmark breaks. Figures are medians; (lowest–highest).
`--pools` compares each of Celery's pools with itself: plain Celery on it, and durable works on it.
`--limits` compares works under limits of the fleet with works that have none.
`--due` is about works that wait for their moment, beside Celery's ETA messages.
"""

from __future__ import annotations

import argparse
import platform
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from celery_workmanager import Limit, Rate
from tests import services
from tests.benchmarks import delayed, scheduled
from tests.benchmarks.marks import Marks
from tests.benchmarks.measures import Figures, Sizes, measure, median, percentile
from tests.benchmarks.systems import Durable, Plain, System, environment_of_marks

FULL = Sizes(drain=10_000, single=1_500, samples=60)
QUICK = Sizes(drain=600, single=100, samples=5)
MARKS = "marks"
DUE = scheduled.Schedule(jobs=10_000, ahead=30.0)
DUE_QUICK = scheduled.Schedule(jobs=300, ahead=6.0)
#: Delayed works beside which is claimed, and how often.
DELAYED, DELAYED_QUICK = (1_000_000, 200), (5_000, 10)


def main() -> None:
    """Measure, and print a table."""
    options = _options()
    rounds = options.rounds or (1 if options.quick else 3)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="workmanager-bench-")))
        environment_of_marks(folder / MARKS)  # the systems take it from here
        ways = {"pools": _pools, "due": _due_systems, "limits": _limits}
        made = next((way for name, way in ways.items() if getattr(options, name)), _systems)(stack, folder)
        systems = [each for each in made if not options.only or options.only in each.name]
        if options.due:
            _due(stack, folder, systems, rounds, quick=options.quick)
        else:
            _headline(folder, systems, rounds, QUICK if options.quick else FULL, each_pool=options.pools)


def _headline(folder: Path, systems: Sequence[System], rounds: int, sizes: Sizes, *, each_pool: bool) -> None:
    marks = _marks(folder, sizes.drain)
    figures = {system.name: Figures() for system in systems}
    for number in range(rounds):
        for system in systems:
            measure(system, marks, sizes, figures[system.name])
            print(f"round {number + 1}: {system.name}: {figures[system.name].drain[-1]:,.0f}/s", flush=True)
    done = (
        f"{rounds} rounds, {sizes.drain} jobs drained with concurrency 2 unless a row says otherwise, "
        f"{sizes.samples} latencies a round"
    )
    print(f"\n{_facts(done)}\n\n{_table(figures, _references(systems, each_pool=each_pool))}")


def _due(stack: ExitStack, folder: Path, systems: Sequence[System], rounds: int, *, quick: bool) -> None:
    schedule, (rows, claims) = (DUE_QUICK, DELAYED_QUICK) if quick else (DUE, DELAYED)
    marks = _marks(folder, schedule.jobs + 1)
    figures = {system.name: scheduled.Punctuality() for system in systems}
    for number in range(rounds):
        for system in systems:
            scheduled.measure(system, marks, schedule, figures[system.name])
            print(
                f"round {number + 1}: {system.name}: the last {figures[system.name].last[-1]:,.0f} ms late", flush=True
            )
    pairs = {"SQLite": (f"sqlite:///{folder / 'none.sqlite3'}", f"sqlite:///{folder / 'delayed.sqlite3'}")}
    if services.why_not("postgresql") is None:
        none, many = (stack.enter_context(_database(f"workmanager_bench_{each}")) for each in ("none", "delayed"))
        pairs["PostgreSQL"] = (none, many)
    times = {name: delayed.measure(urls, rows, claims) for name, urls in pairs.items()}
    done = f"{rounds} rounds, {schedule.jobs} jobs due at one moment with concurrency 2, {claims} claims"
    print(f"\n{_facts(done)}\n\n{scheduled.table(figures)}\n\n{delayed.table(times, rows)}")


def _marks(folder: Path, count: int) -> Marks:
    return Marks.create(folder / MARKS, count)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small counts, one round")
    parser.add_argument("--pools", action="store_true", help="each of Celery's pools, plain and durable")
    parser.add_argument("--limits", action="store_true", help="works with and without limits of the fleet")
    parser.add_argument("--due", action="store_true", help="works that are all due at the same second")
    parser.add_argument("--rounds", type=int, help="how often each system is measured")
    parser.add_argument("--only", help="only systems whose name contains this")
    return parser.parse_args()


def _redis(stack: ExitStack, folder: Path) -> services.RedisServer:
    redis = services.RedisServer(folder)
    redis.start()
    stack.callback(redis.stop)
    return redis


#: How many jobs each pool runs at once. A greenlet costs next to nothing, and so there are many.
POOLS = {"prefork": 2, "threads": 2, "solo": 1, "gevent": 100}


def _pools(stack: ExitStack, folder: Path) -> Iterator[System]:
    redis = _redis(stack, folder)
    for pool, concurrency in POOLS.items():
        how: dict[str, Any] = {"pool": pool, "concurrency": concurrency}
        yield Plain(f"{pool} {concurrency}: Celery, Redis", folder, redis.url, acks_late=False, **how)
        yield Durable(f"{pool} {concurrency}: SQLite, durable", folder, f"sqlite:///{folder / pool}.sqlite3", **how)


#: A key with more room than a node takes, a key for each tenant, one with as much room as there are processes, a rate.
LIMITS: dict[str, dict[str, Any]] = {
    "no limit": {},
    "one wide key": {"concurrency": Limit("wide", 1000)},
    "a hundred keys": {"concurrency": Limit("tenant:{tenant}", 2)},
    "one narrow key": {"concurrency": Limit("narrow", 2)},
    "one wide rate": {"rate": Rate("rate", 1_000_000, 1)},
}


def _limits(stack: ExitStack, folder: Path) -> Iterator[System]:
    stores = {"SQLite": f"sqlite:///{folder / 'store.sqlite3'}"}
    if services.why_not("postgresql") is None:
        stores["PostgreSQL"] = stack.enter_context(_database())
    for store, url in stores.items():
        for name, options in LIMITS.items():
            yield Durable(f"{store}, {name}", folder, url, options)


def _references(systems: Sequence[System], *, each_pool: bool) -> dict[str, str]:
    """Which system each is compared with: the first one, or the first one on the same pool."""
    first: dict[str, str] = {}
    return {each.name: first.setdefault(each.pool if each_pool else "", each.name) for each in systems}


def _systems(stack: ExitStack, folder: Path) -> Iterator[System]:
    redis = _redis(stack, folder)
    yield Plain("Celery, Redis", folder, redis.url, acks_late=False)
    yield Plain("Celery, Redis, acks late", folder, redis.url, acks_late=True)
    yield Durable("SQLite, durable", folder, f"sqlite:///{folder / 'store.sqlite3'}")
    yield Durable("SQLite, durable, threads", folder, f"sqlite:///{folder / 'threads.sqlite3'}", pool="threads")
    if services.why_not("postgresql") is None:
        url = stack.enter_context(_database())
        yield Durable("PostgreSQL, durable", folder, url)


def _due_systems(stack: ExitStack, folder: Path) -> Iterator[System]:
    left_out = {"Celery, Redis, acks late", "SQLite, durable, threads"}
    return (each for each in _systems(stack, folder) if each.name not in left_out)


@contextmanager
def _database(name: str = "workmanager_bench") -> Iterator[str]:
    yield services.make_database(name)
    services.drop_database(name)


def _facts(done: str) -> str:
    memory = psutil.virtual_memory().total / 2**30
    packages = ", ".join(f"{name} {version(name)}" for name in ("celery", "kombu", "sqlalchemy", "psycopg", "redis"))
    return (
        f"{platform.machine()}, {psutil.cpu_count()} processors, {memory:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {packages}; "
        f"load {psutil.getloadavg()[0]:.1f}. "
        f"{done}; everything on this one machine."
    )


def _table(figures: dict[str, Figures], references: dict[str, str]) -> str:
    head = "| | drain/s | ratio | CPU µs | enqueue/s | ratio | bulk/s | ratio | start p50/p99 ms | done p50/p99 ms |"
    lines = [head, "|---|---|---|---|---|---|---|---|---|---|"]
    lines += [f"| {name} | {' | '.join(_cells(each, figures[references[name]]))} |" for name, each in figures.items()]
    return "\n".join(lines)


def _cells(figures: Figures, reference: Figures) -> Iterator[str]:
    yield _spread(figures.drain)
    yield _ratio(figures.drain, reference.drain)
    yield f"{median(figures.cpu):,.0f}"
    for own, other in ((figures.single, reference.single), (figures.bulk, reference.bulk)):
        yield _spread(own)
        yield _ratio(own, other)
    for values in (figures.start, figures.done):
        yield f"{percentile(values, 0.5):.1f} / {percentile(values, 0.99):.1f}"


def _spread(values: list[float]) -> str:
    return f"{median(values):,.0f} ({min(values):,.0f}–{max(values):,.0f})"


def _ratio(values: list[float], reference: list[float]) -> str:
    return f"{median(values) / median(reference):.2f}"


if __name__ == "__main__":
    main()
