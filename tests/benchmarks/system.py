"""A system under test: a process that drives it, and its workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.servers import Absent, Server

ROOT = Path(__file__).parents[2]
_DRIVERS = "tests.benchmarks.drivers"


class Broken(Exception):
    """A call that the driver answered with an error."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call returned, and the seconds and processor seconds it took in the driver."""

    value: Any
    seconds: float
    cpu: float


class Workers:
    """The processes of a system's workers."""

    def __init__(self, roots: Sequence[psutil.Process]) -> None:
        self.roots = roots

    def all(self) -> list[psutil.Process]:
        """Parents and children."""
        return [each for root in self.roots for each in (root, *root.children(recursive=True))]

    def cpu(self) -> float:
        """Processor seconds so far."""
        total = 0.0
        for each in self.all():
            try:
                times = each.cpu_times()
            except psutil.Error:
                continue
            total += times.user + times.system
        return total


class System:
    """One line of a table. `celery` holds the options of ``celery worker``; without, the driver itself can work."""

    def __init__(
        self,
        name: str,
        driver: str,
        *,
        python: str = sys.executable,
        celery: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        servers: Sequence[Server] = (),
        is_slow: bool = False,
    ) -> None:
        self.name, self.servers, self.is_slow = name, servers, is_slow
        self._driver, self._python, self._celery = f"{_DRIVERS}.{driver}", python, celery
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
        self._process: subprocess.Popen[str] | None = None
        self.log = Path(os.environ["WORKMANAGER_BENCH_LOGS"]) / f"{''.join(filter(str.isalnum, name))}.log"

    def call(self, method: str, *arguments: Any) -> Answer:
        """Let the driver do something. Raises Absent when this system doesn't know it."""
        process = self._process or self._start()
        print(json.dumps([method, arguments]), file=process.stdin, flush=True)
        line = process.stdout.readline()
        if not line:
            raise Broken(f"{self.name}: the driver ended; see {self.log}: {self.log.read_text()[-500:]}")
        answer = json.loads(line)
        if "absent" in answer:
            raise Absent("not known to it")
        if "error" in answer:
            raise Broken(f"{self.name}: {method}: {answer['error']}")
        return Answer(answer["value"], answer["seconds"], answer["cpu"])

    def _start(self) -> subprocess.Popen[str]:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._python, "-m", self._driver],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self._environment,
                cwd=self.log.parent,
            )
        return self._process

    def close(self) -> None:
        """End the driver."""
        if self._process is not None:
            self._process.stdin.close()
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            self._process = None

    @contextmanager
    def workers(self, count: int = 1) -> Iterator[Workers]:
        """Workers: `count` of Celery's, or the two processes of a peer."""
        if self._celery:
            command = [self._python, "-m", "celery", "-A", self._driver, "worker", "-l", "WARNING", *self._celery]
            commands = [[*command, "-n", f"bench{number}@%h"] for number in range(count)]
        else:
            commands = [[self._python, "-m", self._driver, "work"]] * 2
        with self.log.open("ab") as log:
            processes = [
                subprocess.Popen(
                    each, env=self._environment, cwd=self.log.parent, stdout=log, stderr=log, start_new_session=True
                )
                for each in commands
            ]
        try:
            yield Workers([psutil.Process(each.pid) for each in processes])
            for each in processes:
                each.terminate()
            for each in processes:
                _wait(each)
        finally:
            for each in processes:
                if each.poll() is None:
                    os.killpg(each.pid, signal.SIGKILL)
                    each.wait()


def _wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        return
