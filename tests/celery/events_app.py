"""An app whose every task exists twice, plain and as a work, so that what they tell can be laid side by side."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from celery import Celery, Task
from celery.events import EventDispatcher

from celery_workmanager import OneTimeWorkRequest, Result, Worker, WorkManager
from celery_workmanager.signals import SIGNALS, WorkEvent

BROKER, STORE, CONF = "EVENTS_BROKER", "EVENTS_STORE", "EVENTS_CONF"
SIGNALS_PATH, SIGNALS_GATE = "EVENTS_SIGNALS", "EVENTS_SIGNALS_GATE"


class SlowDispatcher(EventDispatcher):
    """Sends events to a broker that is far away."""

    seconds = 0.0

    def send(self, *args: Any, **fields: Any) -> Any:
        time.sleep(self.seconds)
        return super().send(*args, **fields)


def build(broker: str, store: str, events_slow: float = 0.0, **conf: Any) -> Celery:
    """The app; the tests' own process makes one too, to enqueue and to listen.

    `events_slow`: seconds that each event takes on its way to the broker.
    """
    made = Celery("events", broker=broker, set_as_current=False)
    if events_slow:
        made.events.dispatcher_cls = type("SlowDispatcher", (SlowDispatcher,), {"seconds": events_slow})
    made.conf.update(
        worker_hijack_root_logger=False, broker_connection_retry_on_startup=True, event_queue_prefix="events-test",
        task_ignore_result=True, **conf,
    )  # fmt: skip
    WorkManager(made, store_url=store)
    for kind, base in (("plain", Task), ("work", Worker)):
        _add_tasks(made, kind, base)

    @made.task(base=Worker, name="work.patient", bind=True, shared=False)
    def patient(self: Any) -> None:
        while not self.is_stopped:
            time.sleep(0.01)

    @made.task(base=Worker, name="work.die_once", shared=False)
    def die_once(mark: str) -> None:
        if not Path(mark).exists():
            Path(mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)

    @made.task(base=Worker, name="work.tell", bind=True, shared=False)
    def tell(self: Any, said: str) -> None:
        self.send_event("task-said", said=said)

    @made.task(base=Worker, name="work.enqueue", shared=False)
    def enqueue() -> dict[str, Any]:
        work = OneTimeWorkRequest("work.add", {"x": 1, "y": 2})
        return {"id": made.workmanager.enqueue(work).id, "pid": os.getpid()}

    @made.task(base=Worker, name="work.refuse", shared=False)
    def refuse() -> Result:
        return Result.failure(why="because")

    return made


def _add_tasks(app: Celery, kind: str, base: type[Task]) -> None:
    @app.task(base=base, name=f"{kind}.add", shared=False)
    def add(x: Any, y: Any) -> Any:
        return x + y

    @app.task(base=base, name=f"{kind}.fail", shared=False)
    def fail() -> None:
        raise KeyError("nothing", 2)

    @app.task(base=base, name=f"{kind}.retry", bind=True, shared=False, max_retries=1)
    def retry(self: Any, countdown: float = 0.0) -> str:
        if self.request.retries == 0:
            raise self.retry(exc=KeyError("not yet", 1), countdown=countdown)
        return "at last"

    @app.task(base=base, name=f"{kind}.insist", bind=True, shared=False, max_retries=1, default_retry_delay=0)
    def insist(self: Any) -> None:
        raise self.retry(exc=KeyError("never"), countdown=0)

    @app.task(base=base, name=f"{kind}.nap", shared=False)
    def nap(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    @app.task(base=base, name=f"{kind}.silent", shared=False, send_events=False)
    def silent() -> None:
        """Tell nobody."""


def note(path: Path, **facts: Any) -> None:
    """Append a line, whole, whoever else writes at the same time."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(handle, json.dumps(facts).encode() + b"\n")
    finally:
        os.close(handle)


def write_signals(path: Path, gate: Path | None) -> None:
    """Connect a receiver to each signal of works that writes what it is told, and hangs unless `gate` is there."""

    def write(*, works: list[WorkEvent], **facts: Any) -> None:
        while gate is not None and not gate.exists():
            time.sleep(0.01)
        for work in works:
            note(path, signal=facts["signal"].name, id=work.id, reason=work.stop_reason.name, pid=os.getpid())

    for each in SIGNALS.values():
        each.connect(write, weak=False)


if SIGNALS_PATH in os.environ:
    write_signals(
        Path(os.environ[SIGNALS_PATH]), Path(os.environ[SIGNALS_GATE]) if SIGNALS_GATE in os.environ else None
    )
if STORE in os.environ:
    app = build(os.environ[BROKER], os.environ[STORE], **json.loads(os.environ.get(CONF, "{}")))
    app.set_current()  # as every app of a user is
