"""Oban for Python: rows of PostgreSQL, two processes with ten jobs at a time each, results kept."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import Any

import uvloop
from oban import Oban, Record, job
from oban.schema import install

from tests.benchmarks.drivers.asynchronous import AsyncDriver
from tests.benchmarks.drivers.driver import BULK, PATIENCE, TEXT, serve
from tests.benchmarks.marks import mark

DSN = os.environ["WORKMANAGER_BENCH_DSN"]
LIMIT = 10


@job(queue="default")
def work(arguments: dict[str, Any]) -> Any:
    """Mark the start."""
    mark(arguments["n"])
    return Record({"n": arguments["n"]})


def _job(number: int) -> Any:
    return work.new({"n": number, "text": TEXT})


class ObanDriver(AsyncDriver):
    """A node without queues, which only inserts."""

    async def open(self) -> None:
        self.pool = await Oban.create_pool(DSN, min_size=1, max_size=2)
        await install(self.pool)
        self.oban = Oban(pool=self.pool)
        await self.oban.start()

    def reset(self) -> None:
        async def empty() -> None:
            async with self.pool.connection() as connection:
                await connection.execute("TRUNCATE oban_jobs")

        self.run(empty())

    async def add(self, number: int) -> Any:
        return (await self.oban.enqueue(_job(number))).id

    async def end(self, handle: Any) -> None:
        until = time.monotonic() + PATIENCE
        while (await self.oban.get_job(handle)).state != "completed":
            if time.monotonic() > until:
                raise TimeoutError(f"expected job {handle} to be completed")
            await asyncio.sleep(0.002)

    def enqueue_many(self, first: int, count: int) -> None:
        async def many() -> None:
            for start in range(first, first + count, BULK):
                numbers = range(start, min(start + BULK, first + count))
                await self.oban.enqueue_many([_job(number) for number in numbers])

        self.run(many())


async def _run() -> None:
    async with Oban(pool=await Oban.create_pool(DSN), queues={"default": LIMIT}):
        await asyncio.Event().wait()


if __name__ == "__main__":
    if sys.argv[1:] == ["work"]:
        uvloop.run(_run())
    else:
        serve(ObanDriver)
