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
#: Endings of a first run that ask for another one: after so long, or as the request's backoff says.
_RETRIES = {"retry": 0.05, "backoff": None}


def note(folder: Path, **facts: Any) -> None:
    """Append one line, whole, whoever writes at the same time."""
    handle = os.open(folder / "runs", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(handle, json.dumps({"at": time.monotonic(), **facts}).encode() + b"\n")
    finally:
        os.close(handle)


def lines(folder: Path, since: int = 0) -> list[dict[str, Any]]:
    """What has been noted so far, after the first `since` bytes (a whole number of lines)."""
    path = folder / "runs"
    if not path.exists():
        return []
    with path.open("rb") as log:
        log.seek(since)
        return [json.loads(line) for line in log.read().split(b"\n")[:-1]]


def build(store_url: str, broker: str = "memory://", **settings: Any) -> Celery:
    """An app with its workers; the tests' own process makes one too, to enqueue."""
    made = Celery("story", broker=broker, set_as_current=False)
    made.conf.update(worker_hijack_root_logger=False, broker_connection_retry_on_startup=True)
    WorkManager(made, store_url=store_url, settings=settings)

    @made.task(bind=True, base=Worker, name="story.step", shared=False)
    def step(self: Any, nap: float = 0.0, ending: str = "success", until: str = "") -> Any:
        folder = Path(os.environ[FOLDER])
        run = _run_of(self)
        note(folder, event="start", attempt=self.run_attempt_count, **run)
        _sleep(self, nap)
        while until and not (folder / until).exists():
            time.sleep(0.02)
        retry = ending in _RETRIES and self.run_attempt_count == 0
        said = "stopped" if self.is_stopped else "success" if ending in _RETRIES and not retry else ending
        note(folder, event="end", attempt=self.run_attempt_count, said=said, **run)
        if retry:
            return Result.retry(after=_RETRIES[ending])
        output = {"of": self.work_id, "pid": os.getpid(), "token": run["token"]}
        return Result.failure(output) if ending == "failure" else output

    @made.task(bind=True, base=Worker, name="story.period", shared=False)
    def period(self: Any, nap: float = 0.0) -> None:
        run, of = _run_of(self), moment(self.scheduled_at)
        note(Path(os.environ[FOLDER]), event="period", of=of, **run)
        _sleep(self, nap)
        note(Path(os.environ[FOLDER]), event="period ended", of=of, stopped=self.is_stopped, **run)

    return made


def _run_of(task: Any) -> dict[str, Any]:
    """Which run it is: the token is what the store knows its owner by."""
    node = int(os.environ["STORY_NODE"])
    return {"id": task.work_id, "pid": os.getpid(), "node": node, "token": task._run.claim.token}


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
