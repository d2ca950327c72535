"""Where a work's microseconds go: the statements of an enqueue and of a drain, and who spends the processor time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.benchmarks import catalogue as c
from tests.benchmarks.bench import Bench, Measured, Row
from tests.benchmarks.statements import Log, Observer, listing
from tests.benchmarks.system import PATIENCE, System

_MOST = 12
#: Seconds after which every session may tell the server's counters what it did.
_TOLD = 1.5
_WARM_UP = 20


def measure(bench: Bench, system: System) -> Measured:
    """An enqueue one by one, one in bulk, the drain of what was enqueued in bulk, and a worker with nothing to do."""
    with _observer(system) as observer:
        notes: list[str] = []
        figures = {
            **_enqueues(bench, system, observer, notes),
            **_drain(bench, system, observer, notes),
            **_idle(bench, system, observer, notes),
        }
    bench.notes[ROW.name] = "\n\n".join(notes)
    return figures


@contextmanager
def _observer(system: System) -> Iterator[Observer]:
    observer = Observer(system.servers[0].url, system.database)
    try:
        yield observer
    finally:
        observer.close()


def _enqueues(bench: Bench, system: System, observer: Observer, notes: list[str]) -> dict[str, float]:
    single, bulk = bench.sizes.single, bench.drain_size(system)
    bench.fill(system, _WARM_UP)
    system.call("enqueue_each", 0, _WARM_UP)
    ones = _observed(system, observer, "enqueue_each", "a single enqueue", single, notes)
    system.call("reset")
    system.before()
    size = system.call("size").value
    many = _observed(system, observer, "enqueue_many", "a bulk enqueue", bulk, notes)
    grown = system.call("size").value
    return {
        "flushes a single enqueue": ones[1],
        "log bytes a single enqueue": ones[0],
        "log bytes a bulk enqueue": many[0],
        "table bytes a work that waits": (grown["table"] - size["table"]) / bulk,
        "index bytes a work that waits": (grown["indexes"] - size["indexes"]) / bulk,
    }


def _observed(
    system: System, observer: Observer, method: str, what: str, count: int, notes: list[str]
) -> tuple[float, float]:
    before = _log(system, observer)
    observer.begin()
    system.call(method, 0, count)
    return _note(system, observer, before, what, count, notes)


def _note(
    system: System, observer: Observer, before: Log, what: str, count: int, notes: list[str]
) -> tuple[float, float]:
    """Bytes of log and flushes a work since `before`; the statements become a note."""
    notes.append(f"Statements of {what}, by `pg_stat_statements`:\n\n{listing(observer.statements(), count, _MOST)}")
    after = _log(system, observer)
    return (after.position - before.position) / count, (after.flushes - before.flushes) / count


def _log(system: System, observer: Observer) -> Log:
    # A session tells of its flushes when it has something to do, and at most once a second.
    time.sleep(_TOLD)
    system.call("check_done", 0)
    time.sleep(_TOLD / 10)
    return observer.log()


def _drain(bench: Bench, system: System, observer: Observer, notes: list[str]) -> dict[str, float]:
    count = bench.drain_size(system)
    system.settle()
    bench.marks.clear()
    before = _log(system, observer)
    observer.begin()
    with system.workers() as running:
        bench.marks.wait_any(count, PATIENCE, running.check)
        spent, parents, servers = running.cpu(), running.parents_cpu(), system.servers_cpu()
        begun = bench.marks.begun(count)
        bench.marks.wait(count, PATIENCE, running.check)
        left = max(1, count - begun)
        parent = running.parents_cpu() - parents
        children = running.cpu() - spent - parent
        server = system.servers_cpu() - servers
        system.call("check_done", count)
    log_bytes, flushes = _note(system, observer, before, "a drain", count, notes)
    return {
        "parent CPU µs": parent / left * 1e6,
        "children CPU µs": children / left * 1e6,
        "server CPU µs": server / left * 1e6,
        "log bytes a drained work": log_bytes,
        "flushes a drained work": flushes,
    }


def _idle(bench: Bench, system: System, observer: Observer, notes: list[str]) -> dict[str, float]:
    drivers = observer.connections()
    with bench.idle_worker(system):
        time.sleep(bench.sizes.idle / 2)  # what a node does as it starts is over
        observer.begin()
        time.sleep(2 * bench.sizes.idle)
        table = listing(observer.statements(), 2 * bench.sizes.idle, _MOST, "second")
        connections = observer.connections() - drivers
    notes.append(f"Statements of an idle worker:\n\n{table}")
    return {"connections of an idle worker": connections}


ROW = Row("profile", "Where a work's microseconds go", (c.POSTGRESQL,), measure, rounds=1)
