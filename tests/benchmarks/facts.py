"""The machine, and the versions of everything that was measured on it."""

from __future__ import annotations

import platform
import re
import sqlite3
import subprocess
from importlib.metadata import version
from pathlib import Path

import psutil
from kombu.connection import Connection as BrokerConnection

from tests import services
from tests.benchmarks.environments import PEERS, version_of
from tests.benchmarks.servers import Absent, postgresql_binaries

#: The first number with dots in what a server says of itself.
_NUMBER = re.compile(r"\d+(\.\d+)+")


def facts() -> dict[str, str]:
    """Names and values, for people and for the history."""
    found = {
        "processor": _processor(),
        "processors": str(psutil.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "commit": commit(),
        "sqlite": sqlite3.sqlite_version,
    }
    packages = ("celery", "kombu", "billiard", "sqlalchemy", "psycopg", "pymysql", "redis", "django", "gevent")
    found |= {name: version(name) for name in packages}
    for program, answer in _servers().items():
        if number := _NUMBER.search(answer):
            found[program] = number[0]
    for peer in PEERS:
        try:
            found[peer] = version_of(peer)
        except Absent:
            continue
    return found


def load() -> str:
    """How many processes have lately wanted a processor: in one, five and fifteen minutes."""
    return " ".join(f"{each:.1f}" for each in psutil.getloadavg())


def commit() -> str:
    """The commit that is measured; empty outside a repository."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def _servers() -> dict[str, str]:
    """What each server says of its version; nothing of one that isn't there."""
    try:
        postgres = _says(str(postgresql_binaries() / "postgres"))
    except Absent:
        postgres = ""
    return {
        "PostgreSQL": postgres,
        "MariaDB": _says("mariadbd"),
        "Redis": _says("redis-server"),
        "RabbitMQ": "" if services.why_not("rabbitmq") else _rabbitmq(),
    }


def _says(program: str) -> str:
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def _rabbitmq() -> str:
    with BrokerConnection(services.RABBITMQ_URL, connect_timeout=5) as connection:
        connection.connect()
        return str(connection.connection.server_properties.get("version", ""))
