"""What things cost in a small store, a large one and a very large one."""

from __future__ import annotations

from tests.benchmarks.bench import Bench, Measured, Row
from tests.benchmarks.figures import median
from tests.benchmarks.system import System

#: Seconds in which a million rows must be there, and everything must be measured.
_FILLING = 1200.0


def measure(bench: Bench, system: System) -> Measured:
    """The stores in turn; the last column of each operation says how much more the largest costs than the smallest."""
    rows = bench.sizes.rows
    system.call("fill", rows, patience=_FILLING)
    measured: dict[str, float] = {}
    for operation, times in system.call("measure", bench.sizes.times, patience=_FILLING).value.items():
        middles = [median(each) for each in times]
        measured |= {f"{operation}, {size:,} ms": each for size, each in zip(rows, middles, strict=True)}
        measured[f"{operation} ×"] = middles[-1] / middles[0]
    return measured


GROWTH = Row(
    "growth",
    "Beside other rows in the store",
    ("growth on SQLite", "growth on PostgreSQL"),
    measure,
    rounds=1,
)
#: Apart, because no goal asks for it and a million rows take it long.
ON_MARIADB = Row("growth-mariadb", "Beside other rows in the store, MariaDB", ("growth on MariaDB",), measure, rounds=1)
