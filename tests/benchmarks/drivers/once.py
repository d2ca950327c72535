"""celery-once: unique tasks of Celery by locks in Redis."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from celery_once import AlreadyQueued, QueueOnce

from tests.benchmarks.drivers.driver import Driver, serve

REDIS = os.environ["WORKMANAGER_BENCH_BROKER"]
app = Celery("once", broker=REDIS, set_as_current=False)
app.conf.ONCE = {"backend": "celery_once.backends.Redis", "settings": {"url": REDIS, "default_timeout": 3600}}


@app.task(name="bench.once", base=QueueOnce, shared=False)
def work(n: int) -> dict[str, Any]:
    """Never run here."""
    return {"n": n}


class OnceDriver(Driver):
    """Only enqueues."""

    def reset(self) -> None:
        with app.connection_for_write() as connection:
            channel: Any = connection.default_channel
            channel.client.flushall()

    def unique(self, first: int, count: int) -> int:
        """Enqueue under a lock each; returns how many were new."""
        new = 0
        for number in range(first, first + count):
            try:
                work.apply_async(kwargs={"n": number})
                new += 1
            except AlreadyQueued:
                pass
        return new


if __name__ == "__main__":
    serve(OnceDriver)
