"""What a worker costs that has nothing to do."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psutil

from tests.benchmarks import catalogue as c
from tests.benchmarks.bench import Bench, Measured, Row
from tests.benchmarks.system import System, Workers

_SETTLE = 2.0
CPU, STATEMENTS = "CPU %", "statements/s"


def measure(bench: Bench, system: System) -> Measured:
    """After one job and a pause."""
    with bench.idle_worker(system, counted=True) as workers:
        time.sleep(min(_SETTLE, bench.sizes.idle))
        counted, cpu, begun = list(_statements(system, workers)), workers.cpu(), time.monotonic()
        time.sleep(bench.sizes.idle)
        seconds = time.monotonic() - begun
        spent = (workers.cpu() - cpu) / seconds * 100
        # Each question is itself one statement, or more: those of asking twice at once are taken off.
        again = list(_statements(system, workers))
        asking = [b - a for a, b in zip(again, _statements(system, workers), strict=True)]
        rates = [(b - a - own) / seconds for a, b, own in zip(counted, again, asking, strict=True)]
        memory = [each.memory_full_info() for each in _alive(workers)]
    return {
        CPU: spent,
        **({STATEMENTS: max(0.0, sum(rates))} if rates else {}),
        "processes": len(memory),
        "RSS MiB": sum(each.rss for each in memory) / 2**20,
        "PSS MiB": sum(each.pss for each in memory) / 2**20,
    }


def _statements(system: System, workers: Workers) -> Iterator[int]:
    yield from (server.statements(system.database) for server in system.servers if server.statements is not None)
    if workers.counter is not None:
        yield workers.counter.read()


def _alive(workers: Workers) -> Iterator[psutil.Process]:
    return (each for each in workers.all() if each.is_running())


IDLE = Row(
    "idle",
    "An idle worker with two processes (peers: two workers); Redis: commands",
    (c.REFERENCE, c.RABBITMQ, *c.PEERS, c.SQLITE, c.POSTGRESQL, c.MARIADB),
    measure,
    rounds=1,
)
