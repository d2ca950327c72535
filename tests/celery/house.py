"""A store and a real ``celery worker`` over it in a subprocess, with whatever pool, and what a test asks them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from celery_workmanager import OneTimeWorkRequest, State, WorkInfo, WorkManager, schema
from tests.celery import pools_app
from tests.celery.pool_worker import ROOT, wait_until


class House:
    """A store with a worker that comes and goes."""

    def __init__(
        self, folder: Path, store: str, *options: str, broker: str = "memory://", conf: dict[str, Any] | None = None
    ) -> None:
        self.folder, self.options = folder, options
        conf = {"workmanager_stop_grace": 0.5, **(conf or {})}
        self.app = pools_app.build(store, broker, **conf)
        self.manager = WorkManager.get_instance(self.app)
        schema.migrate(self.manager.store.database)
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
            "POOLS_APP_FOLDER": str(folder),
            "POOLS_APP_STORE": store,
            "POOLS_APP_BROKER": broker,
            "POOLS_APP_CONF": json.dumps(conf),
        }
        self._process: subprocess.Popen[bytes] | None = None

    # The worker

    def start(self, **environment: str) -> None:
        """Start the worker and wait until it runs works."""
        seen = self.log().count(" ready.")
        command = [sys.executable, "-m", "celery", "-A", "tests.celery.pools_app", "worker", "-l", "INFO"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *self.options],
                env={**self._environment, **environment},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(lambda: self.log().count(" ready.") > seen, 30, "the worker is ready")

    def send(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def ends(self, deadline: float = 30.0) -> int:
        """Wait until the worker has exited and return its exit code."""
        assert self._process is not None
        try:
            return self._process.wait(deadline)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker did not exit within {deadline} s: {self.log()[-3000:]}") from None

    def children(self) -> int:
        """How many processes the pool has."""
        assert self._process is not None
        return sum(map(_is_alive, psutil.Process(self._process.pid).children()))

    def close(self) -> None:
        """Leave no process behind."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self.manager.store.close()

    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    # Works

    def put(self, worker: str, count: int = 1, *, options: dict[str, Any] | None = None, **values: Any) -> list[str]:
        """Enqueue works of a worker and return their ids."""
        requests = [OneTimeWorkRequest(f"pools.{worker}", values, **(options or {})) for _ in range(count)]
        self.manager.enqueue(requests)
        return [request.id for request in requests]

    def infos(self, ids: Sequence[str]) -> list[WorkInfo]:
        return list(self.manager.infos_of(ids))

    def states(self, ids: Sequence[str]) -> Counter[State]:
        return Counter(info.state for info in self.infos(ids))

    def finished(self, ids: Sequence[str], deadline: float = 30.0) -> list[WorkInfo]:
        """Wait until works have finished and return them."""
        wait_until(lambda: all(info.state.is_finished for info in self.infos(ids)), deadline, f"{ids[:3]} … finish")
        return self.infos(ids)

    def running(self, ids: Sequence[str], count: int | None = None) -> None:
        """Wait until so many of the works (all of them) are RUNNING."""
        wanted = len(ids) if count is None else count
        wait_until(lambda: self.states(ids)[State.RUNNING] == wanted, 30, f"{wanted} of {ids[:3]} … run")

    def lines(self, file: str, event: str | None = None) -> list[dict[str, Any]]:
        """What works have noted."""
        path = self.folder / file
        found = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []
        return [line for line in found if event is None or line["event"] == event]

    def noted(self, file: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait for a line and return it."""
        found = wait_until(lambda: [line for line in self.lines(file) if condition(line)], 30, f"a line in {file}")
        return dict(found[0])


def most_at_once(spans: Sequence[tuple[float, float]]) -> int:
    """How many of these spans (start, end) overlap at most."""
    moments = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    now = most = 0
    for _, step in moments:
        now += step
        most = max(most, now)
    return most


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:  # it has gone since it was listed
        return False
