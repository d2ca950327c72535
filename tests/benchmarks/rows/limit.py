"""The limit: the same prefork pool, fed from memory, with no store at all."""

from __future__ import annotations

from tests.benchmarks.bench import Bench, Measured, Row
from tests.benchmarks.system import System

SYSTEM = "the pool, no store"


def measure(bench: Bench, system: System) -> Measured:
    """One work a hand-over, and as many as a worker hands over when works are short."""
    from celery_workmanager.pace import MOST_TOGETHER

    one, many = (system.call("run", bench.sizes.drain, batch).value for batch in (1, MOST_TOGETHER))
    return {
        "one a hand-over, jobs/s": one["per_second"],
        f"{MOST_TOGETHER} a hand-over, jobs/s": many["per_second"],
        "parent CPU µs (one)": one["parent_user_us"] + one["parent_system_us"],
        "parent CPU µs (many)": many["parent_user_us"] + many["parent_system_us"],
    }


LIMIT = Row("limit", "The prefork pool alone", (SYSTEM,), measure)
