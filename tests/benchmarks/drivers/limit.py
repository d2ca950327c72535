"""The prefork pool without a store."""

from __future__ import annotations

from tests.benchmarks.drivers.driver import Driver, serve
from tests.celery import pool_bench


class LimitDriver(Driver):
    """Works come from memory, and their ends go nowhere."""

    def run(self, count: int, batch: int) -> dict[str, float]:
        """Run `count` no-ops, `batch` in each hand-over."""
        return pool_bench.measure(count - count % batch, batch)


if __name__ == "__main__":
    serve(LimitDriver)
