"""Jobs that wait for one another: a chain, a fan-out with a join, and a large fan-in."""

from __future__ import annotations

from contextlib import suppress

from tests.benchmarks import catalogue as c
from tests.benchmarks.bench import Bench, Measured, Row
from tests.benchmarks.servers import Absent
from tests.benchmarks.system import PATIENCE, System

_CHAIN, _FAN = 50, 500
#: Caches are filled and statements known before anything is measured.
_FEW = 3
CHAIN, FAN = f"chain of {_CHAIN}, s", f"fan-out of {_FAN} and join, s"


def measure(bench: Bench, system: System) -> Measured:
    """From the call to the end of the last one."""
    with bench.idle_worker(system):
        system.call("chain", 0, _FEW)
        with suppress(Absent):
            system.call("fan", 0, _FEW)
        bench.marks.clear()
        measured = {CHAIN: system.call("chain", 0, _CHAIN).seconds}
        bench.marks.clear()
        with suppress(Absent):  # without results there is no join
            measured[FAN] = system.call("fan", 0, _FAN).seconds
    return measured


def measure_fan_in(bench: Bench, system: System) -> Measured:
    """Many into one."""
    with bench.idle_worker(system):
        count = bench.sizes.fan_in
        return {"s": system.call("fan", 0, count, patience=PATIENCE + count / 20).seconds}


CANVAS = Row(
    "canvas", "A chain, and a fan-out with join", (c.REFERENCE, c.RABBITMQ, c.SQLITE, c.POSTGRESQL, c.MARIADB), measure
)
FAN_IN = Row("fanin", "A fan-in of 10 000", (c.REFERENCE, c.SQLITE, c.POSTGRESQL, c.MARIADB), measure_fan_in, rounds=1)
