"""A system under test: a process that drives it, and its workers."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.counting import STATEMENTS, Counter
from tests.benchmarks.servers import Absent, Server

ROOT = Path(__file__).parents[2]
_DRIVERS = "tests.benchmarks.drivers"
#: Seconds until something that doesn't answer counts as broken.
PATIENCE = 300.0
#: Seconds that a worker has to end by itself.
_FAREWELL = 20.0
_TAIL = 600


class Broken(Exception):
    """A call that the driver answered with an error or not at all, or a worker that ended too soon."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call returned, and the seconds and processor seconds it took in the driver."""

    value: Any
    seconds: float
    cpu: float


class Workers:
    """The processes of a system's workers; `counter` knows the statements of those that no server counts."""

    def __init__(
        self, processes: Sequence[subprocess.Popen[bytes]], told: Callable[[], str], counter: Counter | None
    ) -> None:
        self.roots = [psutil.Process(each.pid) for each in processes]
        self.counter = counter
        self._processes, self._told = processes, told

    def all(self) -> list[psutil.Process]:
        """Parents and children."""
        return [each for root in self.roots for each in (root, *root.children(recursive=True))]

    def cpu(self) -> float:
        """Processor seconds so far."""
        return sum(map(cpu_of, self.all()))

    def parents_cpu(self) -> float:
        """The same, without the children."""
        return sum(map(cpu_of, self.roots))

    def check(self) -> None:
        """Raise Broken when one of them has ended."""
        for each in self._processes:
            if each.poll() is not None:
                raise Broken(f"a worker ended with {each.returncode}: {self._told()}")


def cpu_of(process: psutil.Process) -> float:
    """Its processor seconds; 0 of one that is gone."""
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


class System:
    """One line of a table. `celery` holds the options of ``celery worker``; without, the driver itself can work.

    `database`: its name on those of the `servers` that have databases. `part`: a drain takes this part of the usual
    number of jobs, so that it lasts some seconds with slow systems, too.
    """

    def __init__(
        self,
        name: str,
        driver: str,
        *,
        python: str = sys.executable,
        celery: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        servers: Sequence[Server] = (),
        database: str = "",
        part: int = 1,
    ) -> None:
        self.name, self.servers, self.database, self.part = name, servers, database, part
        self._driver, self._python, self._celery = f"{_DRIVERS}.{driver}", python, celery
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
        self._process: subprocess.Popen[str] | None = None
        self.log = Path(os.environ["WORKMANAGER_BENCH_LOGS"]) / f"{''.join(filter(str.isalnum, name))}.log"

    def call(self, method: str, *arguments: Any, patience: float = PATIENCE) -> Answer:
        """Let the driver do something. Raises Absent when this system doesn't know it, Broken after `patience` s."""
        process = self._process or self._start()
        assert process.stdout is not None
        try:
            print(json.dumps([method, arguments]), file=process.stdin, flush=True)
        except OSError as error:
            self.close()
            raise Broken(f"{self.name}: the driver is gone: {self.told()}") from error
        if not select.select([process.stdout], [], [], patience)[0]:
            self.close()
            raise Broken(f"{self.name}: {method}: no answer within {patience:g} s: {self.told()}")
        line = process.stdout.readline()
        if not line:
            self.close()
            raise Broken(f"{self.name}: {method}: the driver ended: {self.told()}")
        answer = json.loads(line)
        if "absent" in answer:
            raise Absent("not known to it")
        if "error" in answer:
            raise Broken(f"{self.name}: {method}: {answer['error']}")
        return Answer(answer["value"], answer["seconds"], answer["cpu"])

    def told(self) -> str:
        """The end of what its processes have written."""
        return self.log.read_text(errors="replace")[-_TAIL:].strip() if self.log.exists() else ""

    def servers_cpu(self) -> float:
        """Processor seconds of its servers so far."""
        return sum(server.cpu() or 0.0 for server in self.servers)

    def before(self) -> None:
        """Let the servers do now what would else fall into a measurement."""
        for server in self.servers:
            server.checkpoint()

    def settle(self) -> None:
        """Let the servers look at what was filled in, as they do by themselves within a minute."""
        for server in self.servers:
            server.settle(self.database)

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
            self._process.kill()
            self._process.wait()
            for each in (self._process.stdin, self._process.stdout):
                try:
                    each.close()
                except OSError:
                    continue  # what was still to be written has nobody to read it
            self._process = None

    @contextmanager
    def workers(self, count: int = 1, *, counted: bool = False) -> Iterator[Workers]:
        """Workers: `count` of Celery's, or the two processes of a peer. `counted`: with their statements on SQLite."""
        if self._celery:
            command = [self._python, "-m", "celery", "-A", self._driver, "worker", "-l", "WARNING", *self._celery]
            commands = [[*command, "-n", f"bench{number}@%h"] for number in range(count)]
        else:
            commands = [[self._python, "-m", self._driver, "work"]] * 2
        counter = Counter(self.log.with_suffix(".statements")) if counted and not self.servers else None
        environment = {**self._environment, **({STATEMENTS: str(counter.path)} if counter else {})}
        with self.log.open("ab") as log:
            processes = [
                subprocess.Popen(
                    each, env=environment, cwd=self.log.parent, stdout=log, stderr=log, start_new_session=True
                )
                for each in commands
            ]
        try:
            yield Workers(processes, self.told, counter)
            for each in processes:
                each.terminate()
            for each in processes:
                self._wait(each)
        finally:
            for each in processes:
                if each.poll() is None:
                    os.killpg(each.pid, signal.SIGKILL)
                    each.wait()

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        try:
            process.wait(_FAREWELL)
        except subprocess.TimeoutExpired:
            print(f"{self.name}: a worker didn't end within {_FAREWELL:g} s and is killed", flush=True)
