"""pgqueuer: rows of PostgreSQL, two processes with batches of ten; of a finished job a line of log stays."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.errors import DuplicateJobError
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from tests.benchmarks.drivers.asynchronous import AsyncDriver
from tests.benchmarks.drivers.driver import BULK, PATIENCE, TEXT, serve
from tests.benchmarks.marks import mark

DSN = os.environ["WORKMANAGER_BENCH_DSN"]
BATCH = 10


def _payload(number: int) -> bytes:
    return json.dumps({"n": number, "text": TEXT}).encode()


class PgqueuerDriver(AsyncDriver):
    """Over asyncpg, the driver it recommends."""

    async def open(self) -> None:
        self.connection = await asyncpg.connect(DSN)
        self.queries = Queries(AsyncpgDriver(self.connection))
        await self.queries.install()

    def reset(self) -> None:
        self.run(self.connection.execute("TRUNCATE pgqueuer, pgqueuer_log"))

    async def add(self, number: int) -> Any:
        return (await self.queries.enqueue("work", _payload(number)))[0]

    async def end(self, handle: Any) -> None:
        until = time.monotonic() + PATIENCE
        while await self.connection.fetchval("SELECT count(*) FROM pgqueuer WHERE id = $1", handle):
            if time.monotonic() > until:
                raise TimeoutError(f"expected job {handle} to end")
            await asyncio.sleep(0.002)

    def enqueue_many(self, first: int, count: int) -> None:
        async def many() -> None:
            for start in range(first, first + count, BULK):
                payloads = [_payload(number) for number in range(start, min(start + BULK, first + count))]
                await self.queries.enqueue(["work"] * len(payloads), payloads, [0] * len(payloads))

        self.run(many())

    def unique(self, first: int, count: int) -> int:
        """Enqueue under a key each; returns how many were new."""

        async def some() -> int:
            new = 0
            for number in range(first, first + count):
                try:
                    await self.queries.enqueue("work", _payload(number), dedupe_key=f"name-{number}")
                    new += 1
                except DuplicateJobError:
                    pass
            return new

        return self.run(some())


async def _run() -> None:
    queuer = PgQueuer(AsyncpgDriver(await asyncpg.connect(DSN)))

    @queuer.entrypoint("work")
    async def work(job: Job) -> None:
        mark(json.loads(job.payload or b"{}")["n"])

    await queuer.run(batch_size=BATCH)


if __name__ == "__main__":
    if sys.argv[1:] == ["work"]:
        uvloop.run(_run())
    else:
        serve(PgqueuerDriver)
