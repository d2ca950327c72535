"""The machine, and the versions of everything that was measured on it."""

from __future__ import annotations

import platform
import sqlite3
import subprocess
from importlib.metadata import version
from pathlib import Path

import psutil

from tests.benchmarks.environments import PEERS, version_of
from tests.benchmarks.servers import Absent


def facts() -> dict[str, str]:
    """Names and values, for people and for the history."""
    found = {
        "processor": _processor(),
        "processors": str(psutil.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "load": f"{psutil.getloadavg()[0]:.1f}",
    }
    found |= {name: version(name) for name in ("celery", "kombu", "sqlalchemy", "psycopg", "redis")}
    for program in ("postgres", "mariadbd", "redis-server"):
        if answer := _says(program):
            found[program] = answer
    for peer in PEERS:
        try:
            found[peer] = version_of(peer)
        except Absent:
            continue
    return found


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


def _says(program: str) -> str:
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()[:80]
