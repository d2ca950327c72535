"""A real worker that sends events, and a real receiver of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self

from celery_workmanager import WorkManager, schema
from tests.celery import events_app
from tests.celery.pool_worker import ROOT, wait_until

APP = "tests.celery.events_app"


def filesystem(folder: Path) -> dict[str, Any]:
    """What the broker in a folder needs to know."""
    places = {"data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control"}
    for name in set(places.values()):
        (folder / name).mkdir(exist_ok=True)
    return {key: str(folder / name) for key, name in places.items()} | {"polling_interval": 0.05}


class EventsWorker:
    """One worker of the events app, and everything it tells; a context manager that leaves no process behind.

    `listens`: from the beginning; else from when it is told to `listen`.
    """

    def __init__(self, folder: Path, broker: str, *options: str, listens: bool = True, **conf: Any) -> None:
        self.folder, self.options, self._listens = folder, options, listens
        conf = {"task_default_queue": f"events-{os.getpid()}", **conf}
        if broker.startswith("filesystem"):
            conf["broker_transport_options"] = filesystem(folder)
        store = f"sqlite:///{folder / 'store.sqlite3'}"
        self.app = events_app.build(broker, store, **conf)
        self.manager = WorkManager.get_instance(self.app)
        schema.migrate(self.manager.store.database)
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
            events_app.BROKER: broker,
            events_app.STORE: store,
            events_app.CONF: json.dumps(conf),
        }
        self.seen: list[dict[str, Any]] = []
        self.process: subprocess.Popen[bytes]
        self._receiver: Any = None
        self._listening = threading.Thread(target=self._listen, daemon=True)

    def run(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a command of Celery's with this app."""
        command = [sys.executable, "-m", "celery", "-A", APP, *arguments]
        return subprocess.Popen(
            command, env={**self.environment, **options.pop("environment", {})}, cwd=ROOT, stdin=subprocess.DEVNULL,
            start_new_session=True, **options,
        )  # fmt: skip

    def __enter__(self) -> Self:
        if self._listens:
            self._begin_to_listen()
        with (self.folder / "log").open("ab") as log:
            self.process = self.run(
                "worker", "-E", "-l", "INFO", "-n", f"events-{os.getpid()}@%h", *(self.options or ("-c", "2")),
                stdout=log, stderr=log,
            )  # fmt: skip
        if self._listens:
            wait_until(lambda: self.told("worker-heartbeat"), 60, "the worker's heart beats")
        return self

    def listen(self) -> None:
        """Hear everything that is told from now on."""
        self._begin_to_listen()
        # It asks all workers for a heartbeat; whoever hears that hears the rest, too.
        wait_until(lambda: self.told("worker-heartbeat"), 60, "the worker's heart beats")

    def _begin_to_listen(self) -> None:
        self._listening.start()
        wait_until(lambda: self._receiver is not None, what="the receiver listens")

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self._receiver is not None:
            self._receiver.should_stop = True
            self._listening.join(10)
        with self.app.connection_for_write() as connection:
            self.app.amqp.queues[self.app.conf.task_default_queue](connection).delete()
        self.app.close()
        self.manager.store.close()

    def _listen(self) -> None:
        with self.app.connection_for_read() as connection:
            receiver = self.app.events.Receiver(connection, handlers={"*": self.seen.append})
            receiver.on_consume_ready = lambda *_, **__: setattr(self, "_receiver", receiver)
            receiver.capture()

    # What it is asked, and what it tells

    def call(self, task: str, **options: Any) -> str:
        """Call a task; return its id."""
        return str(self.app.tasks[task].apply_async(**options).id)

    def told(self, kind: str) -> list[dict[str, Any]]:
        """The events of a kind, from this worker."""
        return [
            each for each in list(self.seen) if each["type"] == kind and f"events-{os.getpid()}@" in each["hostname"]
        ]

    def of(self, task_id: str) -> list[dict[str, Any]]:
        """The events of a task, as they came."""
        return [each for each in list(self.seen) if each.get("uuid") == task_id]

    def kinds(self, task_id: str) -> list[str]:
        """What was told of a task, in short."""
        return [each["type"].removeprefix("task-") for each in self.of(task_id)]

    def wait_for(self, task_id: str, *kinds: str) -> list[dict[str, Any]]:
        """Wait until these were told of a task (in any order, each as often as it stands here); return all."""
        try:
            wait_until(lambda: all(self.kinds(task_id).count(kind) >= kinds.count(kind) for kind in kinds), 30)
        except AssertionError:
            log = (self.folder / "log").read_text(errors="replace")[-2000:]
            info = self.manager.get_work_info_by_id(task_id)
            raise AssertionError(f"expected {kinds}, told: {self.kinds(task_id)}; {info}\n{log}") from None
        return self.of(task_id)

    def last(self, task_id: str, kind: str) -> dict[str, Any]:
        """Wait until this was told of a task; return that event."""
        return [each for each in self.wait_for(task_id, kind) if each["type"] == f"task-{kind}"][-1]
