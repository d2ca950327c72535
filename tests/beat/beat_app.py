"""The app of real beats: an ordinary task whose messages stay in a queue of the test's, and Workers that note runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from celery import Celery

from celery_workmanager import Worker, WorkManager

FOLDER, STORE, BROKER = "BEAT_FOLDER", "BEAT_STORE", "BEAT_BROKER"
#: Nobody consumes it but the test.
MESSAGES = "beat.messages"


def build(store_url: str, broker: str) -> Celery:
    """The app; the tests' own process makes one too."""
    made = Celery("beats", broker=broker, set_as_current=False)
    made.conf.update(task_default_queue="beat.works", task_routes={"beats.ordinary": {"queue": MESSAGES}})
    made.conf.update(broker_connection_retry_on_startup=True, worker_hijack_root_logger=True)
    WorkManager(made, store_url=store_url, settings={"lease": float(os.environ.get("BEAT_LEASE", "15"))})

    @made.task(name="beats.ordinary", shared=False)
    def ordinary(number: int) -> int:
        return number

    @made.task(base=Worker, name="beats.durable", shared=False)
    def durable(word: str) -> None:
        with (Path(os.environ[FOLDER]) / "runs").open("a") as runs:
            runs.write(word + "\n")

    made.conf.beat_schedule = {
        "durable": {"task": "beats.durable", "schedule": 1.0, "kwargs": {"word": "ran"}},
        "yearly": {"task": "beats.ordinary", "schedule": 365 * 86400.0, "args": (0,)},
    }
    made.add_periodic_task(1.0, ordinary.s(1), name="ordinary")
    return made


def from_environment() -> Any:
    return build(os.environ[STORE], os.environ[BROKER])


if FOLDER in os.environ and STORE in os.environ:
    app = from_environment()
