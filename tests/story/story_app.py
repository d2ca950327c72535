"""The app of real workers in storms and stories: works leave a line at their start and end in an append-only log."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from celery import Celery

from celery_workmanager import Result, Worker, WorkManager
from celery_workmanager.timing import moment

FOLDER = "STORY_FOLDER"


def note(folder: Path, **facts: Any) -> None:
    """Append one line, whole, whoever writes at the same time."""
    handle = os.open(folder / "runs", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(handle, json.dumps({"at": time.monotonic(), **facts}).encode() + b"\n")
    finally:
        os.close(handle)


def lines(folder: Path) -> list[dict[str, Any]]:
    """What has been noted so far."""
    path = folder / "runs"
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


def build(store_url: str, broker: str = "memory://", **settings: Any) -> Celery:
    """An app with its workers; the tests' own process makes one too, to enqueue."""
    made = Celery("story", broker=broker, set_as_current=False)
    made.conf.update(worker_hijack_root_logger=False, broker_connection_retry_on_startup=True)
    WorkManager(made, store_url=store_url, settings=settings)

    @made.task(bind=True, base=Worker, name="story.step", shared=False)
    def step(self: Any, nap: float = 0.0, ending: str = "success", until: str = "") -> Any:
        folder = Path(os.environ[FOLDER])
        run = {"id": self.work_id, "pid": os.getpid(), "node": int(os.environ["STORY_NODE"])}
        note(folder, event="start", attempt=self.run_attempt_count, **run)
        _sleep(self, nap)
        while until and not (folder / until).exists():
            time.sleep(0.02)
        retry = ending == "retry" and self.run_attempt_count == 0
        said = "stopped" if self.is_stopped else ending if retry or ending != "retry" else "success"
        note(folder, event="end", attempt=self.run_attempt_count, said=said, **run)
        if retry:
            return Result.retry(after=0.05)
        return Result.failure() if ending == "failure" else {"of": self.work_id, "pid": os.getpid()}

    @made.task(bind=True, base=Worker, name="story.period", shared=False)
    def period(self: Any) -> None:
        note(Path(os.environ[FOLDER]), event="period", id=self.work_id, of=moment(self.scheduled_at))

    return made


def _sleep(task: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not task.is_stopped:
        time.sleep(min(0.02, left))


def from_environment() -> Celery:
    """The app of a worker process."""
    os.environ["STORY_NODE"] = str(os.getpid())
    settings = json.loads(os.environ.get("STORY_SETTINGS", "{}"))
    return build(os.environ["STORY_STORE"], os.environ.get("STORY_BROKER", "memory://"), **settings)


if FOLDER in os.environ and "STORY_STORE" in os.environ:
    app = from_environment()
