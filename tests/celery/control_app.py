"""The app of a worker that is remotely controlled, and of those who control it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from celery import Celery

from celery_workmanager import Worker, WorkManager

_FOLDER = "CONTROL_FOLDER"


def note(**facts: Any) -> None:
    """Append one line to the notes of this run, whole, whoever writes at the same time."""
    handle = os.open(Path(os.environ[_FOLDER]) / "notes", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(handle, json.dumps({"at": time.monotonic(), "pid": os.getpid(), **facts}).encode() + b"\n")
    finally:
        os.close(handle)


def build(store_url: str, conf: dict[str, Any]) -> Celery:
    """The app; `conf` is Celery's configuration."""
    made = Celery("control", set_as_current=False)
    made.conf.update({"worker_hijack_root_logger": False, "broker_connection_retry_on_startup": True, **conf})
    WorkManager(made, store_url=store_url)

    @made.task(bind=True, base=Worker, name="control.mark", shared=False)
    def mark(self: Any) -> None:
        note(id=self.work_id, event="start")

    @made.task(bind=True, base=Worker, name="control.until_stopped", shared=False)
    def until_stopped(self: Any) -> None:
        note(id=self.work_id, event="start")
        while not self.is_stopped:
            time.sleep(0.01)
        note(id=self.work_id, event="stopped", reason=self.stop_reason.name)

    @made.task(bind=True, base=Worker, name="control.stubborn", shared=False)
    def stubborn(self: Any) -> None:
        note(id=self.work_id, event="start")
        while True:
            time.sleep(0.05)

    @made.task(bind=True, base=Worker, name="control.limited", rate_limit="5/s", shared=False)
    def limited(self: Any) -> None:
        note(id=self.work_id, event="start")

    @made.task(bind=True, name="control.ordinary", shared=False)
    def ordinary(self: Any) -> None:
        note(id=self.request.id, event="start")

    return made


if _FOLDER in os.environ and "CONTROL_STORE" in os.environ:
    app = build(os.environ["CONTROL_STORE"], json.loads(os.environ["CONTROL_CONF"]))
