"""Where messages become works: a broker and a store, real workers there, and the apps of those who send and look."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from amqp.exceptions import ChannelError
from celery import Celery
from kombu.connection import Connection

from celery_workmanager import State, WorkInfo, WorkManager, schema
from celery_workmanager.database import Database
from tests import services
from tests.celery import intake_app

ROOT = Path(__file__).parents[2]


def wait_until(condition: Callable[[], Any], deadline: float = 30.0, what: str = "") -> Any:
    """The first true value of ``condition()``; AssertionError when there is none within `deadline` seconds."""
    end = time.monotonic() + deadline
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline} s: {what or condition}")
        time.sleep(0.02)
    return value


class Worker:
    """A real ``celery worker`` of the durable app."""

    def __init__(self, place: Place, name: str, *options: str, **conf: Any) -> None:
        self.place, self.name = place, name
        conf = place.conf | conf
        environment = {"INTAKE_CONF": json.dumps(conf), "INTAKE_STORE": place.store, "INTAKE_FOLDER": str(place.folder)}
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
            "C_FORCE_ROOT": "1",
            **environment,
        }
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return (self.place.folder / f"{self.name}.log").read_text(errors="replace")

    def start(self, **crash: str) -> Worker:
        """Start it; it is ready when this returns, unless it is told to `crash`."""
        begun = len(self.log) if (self.place.folder / f"{self.name}.log").exists() else 0
        command = [sys.executable, "-m", "celery", "-A", "tests.celery.intake_app", "worker", "-n", f"{self.name}@%h"]
        with (self.place.folder / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "-c", "2", "-l", "INFO", *self._options],
                env=self._environment | crash, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        if not crash:
            wait_until(lambda: " ready." in self.log[begun:] or self.is_over, 60, "the worker is ready")
            assert not self.is_over, self.log
        return self

    @property
    def is_over(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def stop(self) -> None:
        """A warm shutdown."""
        if self._process is not None and not self.is_over:
            self._process.terminate()
            self._process.wait(60)

    def kill(self) -> None:
        """Whatever is left of it goes, at once."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


@dataclass
class Place:
    """A broker and a store, and a queue of its own."""

    folder: Path
    store: str
    conf: dict[str, Any]
    workers: list[Worker] = field(default_factory=list)

    @cached_property
    def producer(self) -> Celery:
        """The app of those who send: they know nothing of works."""
        return intake_app.plain(**self.conf)

    @cached_property
    def app(self) -> Celery:
        """The app of the workers, to look into the store with."""
        return intake_app.durable(self.store, **self.conf)

    @contextmanager
    def code(self, **conf: Any) -> Iterator[Celery]:
        """The app of the workers in another version."""
        made = intake_app.durable(self.store, **self.conf, **conf)
        yield made
        made.workmanager.store.close()
        close(made)

    @property
    def manager(self) -> WorkManager:
        found: WorkManager = self.app.workmanager
        return found

    @property
    def queue(self) -> str:
        return str(self.conf["task_default_queue"])

    def worker(self, name: str = "one", *options: str, **conf: Any) -> Worker:
        """A worker here, not started yet."""
        made = Worker(self, name, *options, **conf)
        self.workers.append(made)
        return made

    def send(self, task: str, *args: Any, **options: Any) -> str:
        """Send a message by name; returns the task's id."""
        kwargs = options.pop("kwargs", {})
        return str(self.producer.send_task(task, args, kwargs, **options).id)

    @contextmanager
    def channel(self) -> Iterator[Any]:
        """A channel to the broker."""
        with self.connection() as connection, connection.channel() as channel:
            yield channel

    def connection(self) -> Connection:
        return Connection(self.conf["broker_url"], transport_options=self.conf.get("broker_transport_options"))

    def waiting_messages(self) -> int:
        """How many messages the broker has that nobody has taken."""
        with self.channel() as channel:
            try:
                return int(channel.queue_declare(self.queue, passive=True).message_count)
            except ChannelError:  # what Redis calls an empty list
                return 0

    def info(self, task_id: str) -> WorkInfo | None:
        return self.manager.get_work_info_by_id(task_id)

    def ended(self, task_id: str, state: State = State.SUCCEEDED) -> WorkInfo:
        """Wait until a work has finished in that state."""
        found: WorkInfo | None = wait_until(lambda: self._finished(task_id), what=f"{task_id} finishes")
        assert found is not None
        assert found.state is state, (found, self.logs)
        return found

    def _finished(self, task_id: str) -> WorkInfo | None:
        found = self.info(task_id)
        return found if found is not None and found.state.is_finished else None

    def result(self, task_id: str) -> Any:
        """What a work returned."""
        self.ended(task_id)
        return self.manager.result_backend.get_result(task_id)

    @property
    def runs(self) -> list[dict[str, Any]]:
        """What the tasks have noted."""
        path = self.folder / "ran"
        return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []

    def runs_of(self, task_id: str) -> list[dict[str, Any]]:
        return [run for run in self.runs if run["id"] == task_id]

    @property
    def logs(self) -> str:
        return "\n".join(worker.log[-4000:] for worker in self.workers)

    def close(self) -> None:
        """No process, queue or connection is left."""
        for worker in self.workers:
            worker.kill()
        with self.channel() as channel:
            channel.queue_delete(self.queue)
        self.manager.store.close()
        close(self.producer)
        close(self.app)


def close(app: Celery) -> None:
    """Leave no socket of an app's behind: result backends keep some of their own."""
    with suppress(AttributeError):  # it has none, or nobody has waited for a result
        app.backend.result_consumer.stop()
    client = getattr(app.backend, "client", None)
    if client is not None:
        client.connection_pool.disconnect()
    app.close()


def make_place(folder: Path, broker: str, store: str, **conf: Any) -> Place:
    """A place with a queue that nobody else uses; `broker` is a URL."""
    conf |= {"broker_url": broker, "task_default_queue": f"intake-{uuid.uuid4().hex}"}
    if broker == "filesystem://":
        for name in ("queues", "control"):
            (folder / name).mkdir()
        queues = str(folder / "queues")
        conf["broker_transport_options"] = {
            "data_folder_in": queues, "data_folder_out": queues, "control_folder": str(folder / "control"),
            "polling_interval": 0.05,
        }  # fmt: skip
    return Place(folder, store, conf)


@contextmanager
def store_of(kind: str, folder: Path, sqlite_template: Path) -> Iterator[str]:
    """The URL of an empty store that is there for the body."""
    if kind == "sqlite":
        shutil.copyfile(sqlite_template, folder / "store.sqlite3")
        yield f"sqlite:///{folder / 'store.sqlite3'}"
        return
    name = f"wm_intake_{uuid.uuid4().hex[:12]}"
    url = services.make_database(name)
    database = Database(url)
    schema.migrate(database)
    database.close()
    yield url
    services.drop_database(name)
