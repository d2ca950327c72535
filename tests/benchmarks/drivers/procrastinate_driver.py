"""procrastinate: rows of PostgreSQL, one statement a job, two processes with one job at a time each."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from contextlib import ExitStack
from typing import Any

import procrastinate
from procrastinate.exceptions import AlreadyEnqueued

from tests.benchmarks.drivers.driver import BULK, PATIENCE, TEXT, Driver, serve
from tests.benchmarks.marks import mark

DSN = os.environ["WORKMANAGER_BENCH_DSN"]
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=DSN))


@app.task(name="work", queue="default")
async def work(n: int, text: str) -> dict[str, Any]:
    """Mark the start."""
    mark(n)
    return {"n": n}


class ProcrastinateDriver(Driver):
    """Its synchronous side."""

    def __init__(self) -> None:
        super().__init__()
        stack = ExitStack()
        self.app = stack.enter_context(app.replace_connector(procrastinate.SyncPsycopgConnector(conninfo=DSN)))
        self.app.open()
        self.work = self.app.tasks["work"]
        self._stack = stack  # as long as this lives
        self._is_made = False

    def reset(self) -> None:
        if not self._is_made:
            self.app.schema_manager.apply_schema()
            self._is_made = True
        self.app.connector.execute_query("TRUNCATE procrastinate_jobs CASCADE")

    def enqueue(self, number: int) -> Any:
        return self.work.defer(n=number, text=TEXT)

    def wait(self, handle: Any) -> None:
        until = time.monotonic() + PATIENCE
        question = "SELECT status FROM procrastinate_jobs WHERE id = %(id)s"
        while self.app.connector.execute_query_one(question, id=handle)["status"] != "succeeded":
            if time.monotonic() > until:
                raise TimeoutError(f"expected job {handle} to succeed")
            time.sleep(0.002)

    def enqueue_many(self, first: int, count: int) -> None:
        for start in range(first, first + count, BULK):
            numbers = range(start, min(start + BULK, first + count))
            self.work.batch_defer(*({"n": number, "text": TEXT} for number in numbers))

    def unique(self, first: int, count: int) -> int:
        """Enqueue under a queueing lock each; returns how many were new."""
        new = 0
        for number in range(first, first + count):
            try:
                self.work.configure(queueing_lock=f"name-{number}").defer(n=number, text=TEXT)
                new += 1
            except AlreadyEnqueued:
                pass
        return new


async def _run() -> None:
    async with app.open_async():
        await app.run_worker_async(concurrency=1)


if __name__ == "__main__":
    if sys.argv[1:] == ["work"]:
        asyncio.run(_run())
    else:
        serve(ProcrastinateDriver)
