"""The systems that are measured: how each is prepared, filled, run and asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from celery_workmanager import OneTimeWorkRequest, State, WorkManager, schema
from tests.benchmarks import durable_app, marks, plain_app

ROOT = Path(__file__).parents[2]
BULK = 1000
FEW = 100
#: Of which tenant a work is says its input.
TENANTS = 100
_PATIENCE = 300.0


class System:
    """What is measured; `name` is its row in the table."""

    module = ""

    def __init__(
        self, name: str, folder: Path, *, pool: str = "prefork", concurrency: int = 2, **environment: str
    ) -> None:
        self.name, self.pool, self.concurrency = name, pool, concurrency
        self._folder = folder
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        self._worker: subprocess.Popen[bytes] | None = None

    def reset(self) -> None:
        """Forget all jobs."""
        raise NotImplementedError

    def enqueue(self, number: int) -> Any:
        """Enqueue one job; returns its result's handle."""
        raise NotImplementedError

    def enqueue_many(self, first: int, count: int) -> None:
        """Enqueue `count` jobs in the cheapest way the system has."""
        raise NotImplementedError

    def enqueue_due(self, first: int, count: int, due: datetime) -> None:
        """Enqueue `count` jobs that must not start before `due`."""
        raise NotImplementedError

    def check_all_done(self, count: int) -> None:
        """Raise unless all of `count` jobs have ended well."""

    @contextmanager
    def worker(self) -> Iterator[psutil.Process]:
        """A worker with two processes (unless told otherwise), in a process group of its own."""
        pool = ["-P", self.pool, "-c", str(self.concurrency)]
        command = [sys.executable, "-m", "celery", "-A", self.module, "worker", *pool]
        with (self._folder / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                [*command, "-l", "WARNING"],
                env=self._environment,
                cwd=self._folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield psutil.Process(process.pid)
            process.terminate()
            process.wait(30)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


class Plain(System):
    """Celery on Redis."""

    module = "tests.benchmarks.plain_app"

    def __init__(self, name: str, folder: Path, redis: str, *, acks_late: bool, **pool: Any) -> None:
        pool |= {"WORKMANAGER_BENCH_REDIS": redis, "WORKMANAGER_BENCH_ACKS_LATE": str(int(acks_late))}
        super().__init__(name, folder, **pool)
        self.app = plain_app.build(redis, acks_late=acks_late)
        self.work = self.app.tasks["bench.work"]

    def reset(self) -> None:
        with self.app.connection_for_write() as connection:
            connection.default_channel.client.flushall()

    def enqueue(self, number: int) -> Any:
        return self.work.delay(n=number)

    def enqueue_many(self, first: int, count: int) -> None:
        # Celery has no bulk call; the nearest is one producer kept for all of them.
        with self.app.producer_or_acquire() as producer:
            for number in range(first, first + count):
                self.work.apply_async(kwargs={"n": number}, producer=producer)

    def enqueue_due(self, first: int, count: int, due: datetime) -> None:
        with self.app.producer_or_acquire() as producer:
            for number in range(first, first + count):
                self.work.apply_async(kwargs={"n": number}, eta=due, producer=producer)


class Durable(System):
    """Works in a store; `options` of their requests."""

    module = "tests.benchmarks.durable_app"

    def __init__(
        self, name: str, folder: Path, store_url: str, options: Mapping[str, Any] | None = None, **pool: Any
    ) -> None:
        super().__init__(name, folder, **pool, WORKMANAGER_BENCH_STORE=store_url)
        self._options = options or {}
        self.app = durable_app.build(store_url)
        self.manager = WorkManager.get_instance(self.app)
        self.work = self.app.tasks["bench.work"]

    def reset(self) -> None:
        schema.migrate(self.manager.store.database)
        self.manager.store.empty()

    def enqueue(self, number: int) -> Any:
        operation = self.manager.enqueue(self._request(number))
        return self.work.AsyncResult(operation.id)

    def enqueue_many(self, first: int, count: int) -> None:
        for start in range(first, first + count, BULK):
            numbers = range(start, min(start + BULK, first + count))
            self.manager.enqueue([self._request(number) for number in numbers])

    def _request(self, number: int) -> OneTimeWorkRequest:
        return OneTimeWorkRequest(self.work, {"n": number, "tenant": number % TENANTS}, **self._options)

    def enqueue_due(self, first: int, count: int, due: datetime) -> None:
        # A delay counts from the call: few at a time, so that it is reckoned anew.
        for start in range(first, first + count, FEW):
            numbers = range(start, min(start + FEW, first + count))
            delay = due - datetime.now(UTC)
            self.manager.enqueue(
                [OneTimeWorkRequest(self.work, {"n": number}, initial_delay=delay) for number in numbers]
            )

    def check_all_done(self, count: int) -> None:
        end = time.monotonic() + _PATIENCE
        while (done := self._done()) < count:
            if time.monotonic() > end:
                raise TimeoutError(f"expected {count} works to succeed, got: {done}")
            time.sleep(0.05)

    def _done(self) -> int:
        from celery_workmanager import queries

        with self.manager.store.database.plain() as connection:
            return queries.counts(connection).get(State.SUCCEEDED, 0)


def cpu_of(worker: psutil.Process) -> float:
    """CPU seconds of a worker and its processes so far."""
    total = 0.0
    for process in [worker, *worker.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


def environment_of_marks(path: Path) -> None:
    """Let the workers that are started from here on find the marks."""
    os.environ[marks.ENVIRONMENT] = str(path)
