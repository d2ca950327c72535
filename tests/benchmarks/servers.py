"""The servers that systems are measured on: our own, started for the run, so that their processor time is the run's.

RabbitMQ is the one that is there already. A server that can't be had makes its systems absent, with the reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from sqlalchemy import create_engine, make_url, text

from tests import services
from tests.benchmarks.slow_flush import library

_PATIENCE = 60.0
_CALLS = "SELECT sum(calls) FROM pg_stat_statements JOIN pg_database ON pg_database.oid = dbid WHERE datname = '{name}'"


class Absent(Exception):
    """What a row asks for can't be had here; the message says why."""


@dataclass
class Server:
    """A server of the run: its URL, its process, and how many statements or commands it has executed so far.

    `statements` takes the database that is asked about; a server that knows only of all together counts these.
    """

    url: str
    process: psutil.Process | None
    statements: Callable[[str], int] | None = None

    def cpu(self) -> float | None:
        """Processor seconds so far, those of its ended children included."""
        if self.process is None:
            return None
        total = 0.0
        own = self.process.cpu_times()
        for each in [self.process, *self.process.children(recursive=True)]:
            try:
                times = each.cpu_times()
            except psutil.Error:
                continue
            total += times.user + times.system
        return total + own.children_user + own.children_system

    def database(self, name: str) -> str:
        """An empty database; returns its URL."""
        services.administer(f"DROP DATABASE IF EXISTS {name}", f"CREATE DATABASE {name}", url=self.url)
        return self.url_of(name)

    def url_of(self, name: str) -> str:
        """The URL of that database."""
        return make_url(self.url).set(database=name).render_as_string(hide_password=False)

    @property
    def _is_postgresql(self) -> bool:
        return make_url(self.url).get_backend_name() == "postgresql"

    def checkpoint(self) -> None:
        """Write what lies in memory: the next time by the clock is then minutes away."""
        if self._is_postgresql:
            services.administer("CHECKPOINT", url=self.url)

    def settle(self, name: str) -> None:
        """Vacuum and analyse a database, as the server would in time, but not in the middle of a measurement."""
        if self._is_postgresql:
            services.administer("VACUUM (ANALYZE)", url=self.url_of(name))


class Servers:
    """Each server, started when it is first asked for; `stack` ends them all."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    @cached_property
    def redis(self) -> Server:
        """A Redis that keeps nothing on disk: Celery's usual setting."""
        _need("redis-server")
        redis = services.RedisServer(self._folder())
        redis.start()
        self._stack.callback(redis.stop)

        def commands(_database: str) -> int:
            import redis as client

            with client.Redis.from_url(redis.url) as connection:
                facts: Any = connection.info("stats")
            return int(facts["total_commands_processed"])

        return Server(redis.url, _listener(redis.url), commands)

    @cached_property
    def rabbitmq(self) -> Server:
        """The RabbitMQ of the tests."""
        if reason := services.why_not("rabbitmq"):
            raise Absent(f"RabbitMQ: {reason}")
        return Server(services.RABBITMQ_URL, _listener(services.RABBITMQ_URL))

    @cached_property
    def postgresql(self) -> Server:
        """A durable PostgreSQL with its defaults."""
        return self._postgresql({})

    @cached_property
    def slow_postgresql(self) -> Server:
        """The same on a disk whose every flush takes a millisecond longer."""
        return self._postgresql(slowly(self._folder()))

    @cached_property
    def mariadb(self) -> Server:
        """A durable MariaDB with its defaults."""
        if find_spec("pymysql") is None:
            raise Absent("no PyMySQL in this environment")
        for program in ("mariadbd", "mariadb-install-db"):
            _need(program)
        folder, port = self._folder(), services.free_port()
        how = [f"--datadir={folder}", f"--socket={folder}/socket", f"--port={port}", "--bind-address=127.0.0.1"]
        _run("mariadb-install-db", "--no-defaults", how[0], "--auth-root-authentication-method=normal")
        size = ["--innodb-buffer-pool-size=256M", "--innodb-log-file-size=1G"]  # as much as PostgreSQL has
        process = self._start(["mariadbd", "--no-defaults", "--user=root", *how, *size], folder)
        url = f"mariadb+pymysql://root@127.0.0.1:{port}/"
        _await(lambda: services.administer("SELECT 1", url=url))
        return Server(url, process, lambda _: _number(url, "SHOW GLOBAL STATUS LIKE 'Questions'", 1))

    def _postgresql(self, environment: dict[str, str]) -> Server:
        folder, port = self._folder(), services.free_port()
        binaries = postgresql_binaries()
        user = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}
        if user:
            shutil.chown(folder, "postgres", "postgres")
        data = folder / "data"
        _run(str(binaries / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "--no-sync", **user)
        options = ["-p", str(port), "-k", str(folder), "-c", "shared_preload_libraries=pg_stat_statements"]
        size = ["-c", "shared_buffers=256MB", "-c", "max_wal_size=4GB"]
        process = self._start([str(binaries / "postgres"), "-D", str(data), *options, *size], folder, environment, user)
        url = f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
        _await(lambda: services.administer("CREATE EXTENSION IF NOT EXISTS pg_stat_statements", url=url))
        return Server(url, process, lambda name: _number(url, _CALLS.format(name=name)))

    def _folder(self) -> Path:
        return Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="workmanager-bench-")))

    def _start(
        self,
        command: list[str],
        folder: Path,
        environment: dict[str, str] | None = None,
        user: dict[str, Any] | None = None,
    ) -> psutil.Process:
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=folder,
                env={**os.environ, **(environment or {})},
                **(user or {}),
            )
        self._stack.callback(_end, process)
        return psutil.Process(process.pid)


def slowly(folder: Path) -> dict[str, str]:
    """The environment of a process whose every flush takes a millisecond longer. Raises Absent without a compiler."""
    try:
        return {"LD_PRELOAD": str(library(folder)), "WORKMANAGER_BENCH_SLOW_US": "1000"}
    except (OSError, subprocess.CalledProcessError) as error:
        raise Absent(f"no slow disk without a C compiler ({error})") from error


def _need(program: str) -> None:
    if shutil.which(program) is None:
        raise Absent(f"no {program} on the PATH")


def postgresql_binaries() -> Path:
    """The folder of PostgreSQL's programs. Raises Absent."""
    found = shutil.which("postgres")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not folders:
        raise Absent("no program named postgres")
    return folders[-1]


def _run(*command: str, **user: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", **user)  # type: ignore[call-overload]
    if done.returncode:
        raise Absent(f"{command[0]}: {done.stderr.strip()[-200:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _await(question: Callable[[], object]) -> None:
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            question()
        except Exception as error:
            if time.monotonic() > until:
                raise Absent(f"no answer within {_PATIENCE} s: {error}") from error
            time.sleep(0.2)
        else:
            return


def _number(url: str, question: str, column: int = 0) -> int:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            return int(connection.execute(text(question)).one()[column] or 0)
    finally:
        engine.dispose()


def _listener(url: str) -> psutil.Process | None:
    """The process that listens on the port of `url`, where we may see it."""
    port = urlsplit(url).port
    try:
        return next(
            psutil.Process(each.pid)
            for each in psutil.net_connections("tcp")
            if each.status == psutil.CONN_LISTEN and each.laddr.port == port and each.pid
        )
    except (StopIteration, psutil.Error):
        return None
