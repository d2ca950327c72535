"""A store, a broker, a real worker on both, and those who control it from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from celery import Celery
from celery.result import AsyncResult

from celery_workmanager import State, WorkInfo, WorkManager, WorkQuery
from tests.celery import control_app
from tests.celery.pool_worker import ROOT, wait_until
from tests.services import RABBITMQ_URL, REDIS_URL

_UNFINISHED = WorkQuery(states=[state for state in State if not state.is_finished])
BROKERS = ("redis", "rabbitmq", "quorum", "filesystem")


def conf_of(broker: str, folder: Path) -> dict[str, Any]:
    """Celery's configuration for a broker, with names that no other test uses."""
    token = f"control-{os.getpid()}-{folder.name}"
    conf: dict[str, Any] = {
        "task_default_queue": token,
        "control_exchange": token,
        "event_exchange": f"{token}-events",
        "task_default_exchange": token,
        "task_default_routing_key": token,
    }
    if broker == "redis":
        return {**conf, "broker_url": REDIS_URL}
    if broker == "filesystem":
        (folder / "messages").mkdir(parents=True)
        places = {key: str(folder / "messages") for key in ("data_folder_in", "data_folder_out")}
        options: dict[str, Any] = {**places, "control_folder": str(folder / "bindings"), "polling_interval": 0.05}
        return {**conf, "broker_url": "filesystem://", "broker_transport_options": options}
    conf["broker_url"] = RABBITMQ_URL
    if broker == "quorum":
        conf |= {"task_default_queue_type": "quorum", "broker_transport_options": {"confirm_publish": True}}
    return conf


class Site:
    """One worker and its surroundings."""

    def __init__(self, folder: Path, conf: dict[str, Any], *options: str, store_url: str | None = None) -> None:
        self.folder, self.conf, self.options = folder, conf, options or ("-c", "2")
        self.store_url = store_url or f"sqlite:///{folder / 'store.sqlite3'}"
        self.app = control_app.build(self.store_url, conf)
        self.manager = WorkManager.get_instance(self.app)
        #: One that knows nothing of works: Flower's, or a client's in another language.
        self.stranger = Celery("stranger", set_as_current=False)
        self.stranger.conf.update(conf)
        self.process: subprocess.Popen[bytes] | None = None

    # -- the worker -----------------------------------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
            "CONTROL_FOLDER": str(self.folder),
            "CONTROL_STORE": self.store_url,
            "CONTROL_CONF": json.dumps(self.conf),
        }

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "celery", "-A", "tests.celery.control_app", *words]

    def start(self) -> None:
        """Start the worker; it is not waited for."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command("worker", "-l", "INFO", "-n", "one@here", *self.options),
                env=self.environment(),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start_and_wait(self) -> None:
        """Start the worker and wait until it hears commands."""
        self.start()
        wait_until(lambda: "ready." in self.log, 60, "the worker is ready")

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def children(self) -> list[int]:
        assert self.process is not None
        found = psutil.Process(self.process.pid).children()
        return [each.pid for each in found if each.status() != psutil.STATUS_ZOMBIE]

    def close(self) -> None:
        """Nothing is left behind."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.manager.store.close()
        self._sweep()
        self.app.close()
        self.stranger.close()

    def delete_queue(self, name: str) -> None:
        """Leave no queue of a test's on a server."""
        with self.stranger.connection_for_write() as connection:
            connection.default_channel.queue_delete(name)

    def _sweep(self) -> None:
        if "amqp:" not in str(self.conf["broker_url"]):
            return
        self.delete_queue(self.conf["task_default_queue"])
        with self.stranger.connection_for_write() as connection:
            channel = connection.default_channel
            for exchange in (self.conf["task_default_exchange"], self.conf["event_exchange"]):
                channel.exchange_delete(exchange)
            for kind in ("pidbox", "reply.celery.pidbox"):
                channel.exchange_delete(f"{self.conf['control_exchange']}.{kind}")

    # -- works ----------------------------------------------------------------------------------------------------

    def call(self, worker: str, *, count: int = 1, **options: Any) -> list[AsyncResult]:
        """Call a task of the app some times."""
        return [self.app.tasks[f"control.{worker}"].apply_async(**options) for _ in range(count)]

    def one(self, worker: str, **options: Any) -> AsyncResult:
        return self.call(worker, **options)[0]

    def info(self, work: AsyncResult) -> WorkInfo:
        found = self.manager.get_work_info_by_id(work.id)
        assert found is not None
        return found

    def state(self, work: AsyncResult) -> str:
        return self.info(work).state.name

    def wait_for(self, state: str, *works: AsyncResult, deadline: float = 30.0) -> None:
        wait_until(
            lambda: all(self.state(each) == state for each in works),
            deadline,
            f"{[each.id for each in works]} are {state}",
        )

    def notes(self, work: AsyncResult | None = None, event: str | None = None) -> list[dict[str, Any]]:
        """What the tasks wrote, of one of them or all."""
        path = self.folder / "notes"
        lines = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []
        return [
            line
            for line in lines
            if (work is None or line["id"] == work.id) and (event is None or line["event"] == event)
        ]

    def wait_for_running(self, *works: AsyncResult) -> list[int]:
        """Wait until they are RUNNING; the processes that run them."""
        self.wait_for("RUNNING", *works)
        return [self.notes(each, "start")[-1]["pid"] for each in works]

    def end_all(self) -> None:
        """Leave nothing unfinished to the next test."""
        self.app.control.revoke([info.id for info in self.manager.get_work_infos(_UNFINISHED)], terminate=True)
        wait_until(lambda: not self.ask("active") and not self.ask("reserved"), 30, "the worker is idle")

    # -- commands -------------------------------------------------------------------------------------------------

    def ask(self, question: str, *args: Any) -> Any:
        """The answer of the worker to an inspect command."""
        inspect = self.app.control.inspect(timeout=10, limit=1)
        (answer,) = (getattr(inspect, question)(*args) or {None: None}).values()
        assert answer is not None, f"no answer to {question}"
        return answer

    def tell(self, command: str, **arguments: Any) -> dict[str, Any]:
        """The answer of the worker to a control command."""
        (answer,) = self.app.control.broadcast(command, arguments, reply=True, timeout=10, limit=1)
        return dict(answer["one@here"])
