"""Real workers in processes of their own, to be killed, frozen and started again."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil

from celery_workmanager.database import Database

ROOT = Path(__file__).parents[2]


def wait_until(condition: Callable[[], Any], deadline: float = 60.0, what: str = "") -> Any:
    """The first true value of ``condition()``; AssertionError when there is none within `deadline` seconds."""
    end = time.monotonic() + deadline
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline} s: {what or condition}")
        time.sleep(0.02)
    return value


def freeze_between_commits(pid: int, database: Database) -> None:
    """SIGSTOP where it holds up nobody: a process that stands still as SQLite's one writer stops all others."""
    os.kill(pid, signal.SIGSTOP)
    while database.is_sqlite and _is_locked(str(database.url.database)):
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.05)
        os.kill(pid, signal.SIGSTOP)


def _is_locked(file: str) -> bool:
    with closing(sqlite3.connect(file, timeout=1.0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        connection.execute("ROLLBACK")
        return False


class StoryWorker:
    """A Celery worker of the story app."""

    def __init__(
        self,
        folder: Path,
        store: str,
        *,
        broker: str = "memory://",
        pool: str = "prefork",
        name: str = "one",
        concurrency: int = 2,
        prefix: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        """`prefix`: words before the command, that end in an ``exec`` of it."""
        self.folder, self.pool, self.name = folder, pool, name
        self._concurrency = concurrency
        self._prefix = prefix
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
            "STORY_FOLDER": str(folder),
            "STORY_STORE": store,
            "STORY_BROKER": broker,
            "STORY_SETTINGS": json.dumps(settings),
            **(environment or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        return (self.folder / f"{self.name}.log").read_text(errors="replace")

    def command(self) -> list[str]:
        """What the process is."""
        return _celery("worker", "-n", f"{self.name}@%h", "-c", str(self._concurrency), "-P", self.pool)

    def start(self) -> None:
        """Start the process; it is not waited for."""
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._prefix, *self.command()],
                env=self.environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def children(self) -> list[int]:
        """The pool's processes."""
        try:
            found = psutil.Process(self.pid).children()
        except psutil.Error:
            return []
        return [each.pid for each in found if each.status() != psutil.STATUS_ZOMBIE]

    def kill(self) -> None:
        """SIGKILL: nothing is said or written any more. Its pool dies with it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def terminate(self, deadline: float = 60.0) -> None:
        """SIGTERM, and wait for its warm shutdown."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(deadline)

    def end(self) -> None:
        """Whatever is left of it goes."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class StoryBeat(StoryWorker):
    """A Celery beat of the story app, which keeps time for its works."""

    def command(self) -> list[str]:
        """What the process is."""
        return _celery("beat", "-S", "workmanager")


def _celery(*words: str) -> list[str]:
    return [sys.executable, "-m", "celery", "-A", "tests.story.story_app", *words, "-l", "INFO"]
