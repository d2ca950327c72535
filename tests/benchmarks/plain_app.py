"""Plain Celery on Redis, broker and results: what everything is measured against."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

from tests.benchmarks.marks import mark


def build(redis: str, *, acks_late: bool) -> Celery:
    """An app of its own for each measured system."""
    made = Celery("plain", broker=redis, backend=redis, set_as_current=False)
    made.conf.update(task_acks_late=acks_late, broker_connection_retry_on_startup=True, worker_hijack_root_logger=False)

    @made.task(name="bench.work", shared=False)
    def work(n: int) -> dict[str, Any]:
        mark(n)
        return {"n": n}

    return made


app = build(
    os.environ.get("WORKMANAGER_BENCH_REDIS", "redis://127.0.0.1:6379/0"),
    acks_late=os.environ.get("WORKMANAGER_BENCH_ACKS_LATE", "") == "1",
)
