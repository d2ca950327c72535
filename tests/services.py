"""The servers that tests talk to: where they are, whether they answer, and one Redis that a test may kill.

`python -m tests.services postgresql` exits 0 when that service answers.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from kombu.connection import Connection as BrokerConnection
from sqlalchemy import URL, Engine, create_engine, make_url, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool


def _of_this_process(url: str) -> str:
    """A Redis database for each process of a parallel run (pytest -n): the following numbers."""
    base, _, number = url.rpartition("/")
    return f"{base}/{int(number) + int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0').removeprefix('gw'))}"


POSTGRESQL_URL = os.environ.get("WORKMANAGER_TEST_POSTGRESQL_URL", "postgresql+psycopg://postgres@127.0.0.1:5432/test")
# With TLS on, PyMySQL reads all the machine's certificates for each connection: half of these tests' time.
MARIADB_URL = os.environ.get("WORKMANAGER_TEST_MARIADB_URL", "mariadb+pymysql://root@127.0.0.1:3306/?ssl_disabled=true")
REDIS_URL = _of_this_process(os.environ.get("WORKMANAGER_TEST_REDIS_URL", "redis://127.0.0.1:6379/9"))
RABBITMQ_URL = os.environ.get("WORKMANAGER_TEST_RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672//")
REQUIRED = os.environ.get("WORKMANAGER_TEST_REQUIRE_SERVICES", "") not in ("", "0")

#: What `make test` says it ran without: the service, and why.
absent: dict[str, str] = {}


@cache
def _administration(url: str) -> Engine:
    # Kept, because an engine asks a server much when it first meets it; its connections are not.
    return create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool, connect_args={"connect_timeout": 5})


def administer(*statements: str, url: str = POSTGRESQL_URL) -> None:
    """Run statements outside a transaction, as CREATE DATABASE has to be."""
    with _administration(url).connect() as connection:
        for statement in statements:
            connection.execute(text(statement))


def _answer_postgresql() -> None:
    administer("SELECT 1")


def _answer_mariadb() -> None:
    administer("SELECT 1", url=MARIADB_URL)


def _answer_broker(url: str) -> None:
    with BrokerConnection(url, connect_timeout=5) as connection:
        connection.ensure_connection(max_retries=1, interval_start=0.1, timeout=5)


def find(program: str) -> str:
    """Where a program is. Raises FileNotFoundError."""
    # Servers are not on everybody's PATH.
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        raise FileNotFoundError(f"no {program} on the PATH")
    return path


_QUESTIONS = {
    "postgresql": _answer_postgresql,
    "mariadb": _answer_mariadb,
    "redis": lambda: _answer_broker(REDIS_URL),
    "rabbitmq": lambda: _answer_broker(RABBITMQ_URL),
    "redis-server": lambda: find("redis-server"),
    "chromium": lambda: find("chromium"),
    "pgbouncer": lambda: find("pgbouncer"),
}


@cache
def why_not(service: str) -> str | None:
    """Why the service can't be used, in one line; None when it answers."""
    try:
        _QUESTIONS[service]()
    except Exception as error:  # noqa: BLE001  (whatever its client raises, the service isn't there)
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


def make_database(name: str, server: str = POSTGRESQL_URL) -> str:
    """Create an empty database on that server and return its URL."""
    drop_database(name, server)
    administer(f"CREATE DATABASE {name}", url=server)
    return make_url(server).set(database=name).render_as_string(hide_password=False)


def drop_database(name: str, server: str = POSTGRESQL_URL) -> None:
    """Drop the database, whoever is still connected to it."""
    if server == MARIADB_URL:
        throw_out(name, server)
    force = "" if server == MARIADB_URL else " WITH (FORCE)"
    administer(f"DROP DATABASE IF EXISTS {name}{force}", url=server)


def empty_database(url: str) -> None:
    """Drop every table of a test's database, throwing out whoever still holds one."""
    name = str(make_url(url).database)
    throw_out(name, url)
    if is_mariadb(url):
        administer(f"DROP DATABASE {name}", f"CREATE DATABASE {name}", url=MARIADB_URL)
    else:
        administer("DROP SCHEMA public CASCADE", "CREATE SCHEMA public", url=url)


def is_mariadb(url: str | URL) -> bool:
    """Whether it is a MariaDB or MySQL."""
    return make_url(url).get_backend_name() in ("mariadb", "mysql")


def throw_out(name: str, url: str) -> None:
    """End all other connections to the database `name`."""
    if not is_mariadb(url):
        others = f"datname = '{name}' AND pid <> pg_backend_pid()"
        administer(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}", url=url)
        return
    others = f"SELECT id FROM information_schema.processlist WHERE db = '{name}' AND id <> connection_id()"
    with _administration(url).connect() as connection:
        for each in connection.execute(text(others)).scalars().all():
            with suppress(OperationalError):  # it may have gone by itself
                connection.execute(text(f"KILL {each}"))


def users_engine(url: str | URL) -> Engine:
    """An engine of somebody's own, at the isolation level that transactions with works in them need."""
    # MariaDB's own default is another one; PostgreSQL has it already.
    options = {"isolation_level": "READ COMMITTED"} if is_mariadb(url) else {}
    return create_engine(url, **options)


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Whether something on this machine accepts connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class RedisServer:
    """A Redis of a test's own on a free port, which keeps nothing on disk and may be killed."""

    folder: Path
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The broker URL, the same after every start."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def log(self) -> Path:
        """What it has to say."""
        return self.folder / "redis.log"

    def start(self) -> None:
        """Start it (empty) and return once it answers."""
        if self._process is not None:
            return
        where = f"--bind 127.0.0.1 --port {self.port} --appendonly no".split()
        files = ["--save", "", "--dir", str(self.folder), "--logfile", str(self.log)]
        self._process = subprocess.Popen(["redis-server", *where, *files], stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while not listens(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"expected a redis-server on port {self.port}, see {self.log}")
            time.sleep(0.01)

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it, at once unless told otherwise; whatever it held is gone."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=10)
            self._process = None


if __name__ == "__main__":
    reasons = {service: why_not(service) for service in sys.argv[1:]}
    for name, reason in reasons.items():
        print(f"{name}: {reason or 'answers'}")
    sys.exit(any(reasons.values()))
