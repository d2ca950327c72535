"""The same task as a durable work."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

from celery_workmanager import Worker, WorkManager
from tests.benchmarks.marks import mark


def build(store_url: str) -> Celery:
    """An app of its own for each measured system; no server but the store's."""
    made = Celery("durable", broker="memory://", set_as_current=False)
    made.conf.update(worker_hijack_root_logger=False)
    WorkManager(made, store_url=store_url)

    @made.task(name="bench.work", base=Worker, shared=False)
    def work(n: int) -> dict[str, Any]:
        mark(n)
        return {"n": n}

    return made


app = build(os.environ.get("WORKMANAGER_BENCH_STORE", "sqlite://"))
