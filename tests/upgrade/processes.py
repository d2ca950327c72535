"""Processes of some version of the package: workers, commands, and calls that enqueue."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.upgrade.versions import Version


class Place:
    """A folder and a store in which processes of all versions meet."""

    def __init__(self, folder: Path, store: str) -> None:
        self.folder, self.store = folder, store
        self._workers: list[subprocess.Popen[bytes]] = []

    def environment(self, version: Version) -> dict[str, str]:
        return version.environment(UPGRADE_STORE=self.store, UPGRADE_FOLDER=str(self.folder))

    def run(self, version: Version, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `python -m …` to its end."""
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=self.folder, env=self.environment(version), capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    def work(self, version: Version, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `celery work …` to its end."""
        return self.run(version, "celery", "-A", "tests.upgrade.upgrade_app", "work", *arguments)

    def migrate(self, version: Version) -> str:
        """Let a version bring the store to its schema."""
        done = self.work(version, "migrate")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def enqueue(self, version: Version) -> dict[str, list[str]]:
        """Let a process of a version enqueue, and return the ids by what they are."""
        done = self.run(version, "tests.upgrade.upgrade_app")
        assert done.returncode == 0, done.stderr
        found: dict[str, list[str]] = json.loads(done.stdout)
        return found

    def worker(self, version: Version) -> subprocess.Popen[bytes]:
        """Start a worker of a version; it is not waited for."""
        command = ["celery", "-A", "tests.upgrade.upgrade_app", "worker", "-n", f"{version.name}@%h", "-c", "2"]
        with self._log(version).open("ab") as log:
            started = subprocess.Popen(
                [sys.executable, "-m", *command, "-l", "INFO"],
                cwd=self.folder, env=self.environment(version), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self._workers.append(started)
        return started

    def _log(self, version: Version) -> Path:
        return self.folder / f"{version.name}.log"

    def log(self, version: Version) -> str:
        """What workers of a version have said."""
        path = self._log(version)
        return path.read_text(errors="replace") if path.exists() else ""

    def notes(self, event: str) -> list[dict[str, Any]]:
        """What works have noted."""
        path = self.folder / "runs"
        found = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []
        return [line for line in found if line["event"] == event]

    def close(self) -> None:
        """Leave no process behind."""
        for each in self._workers:
            with suppress(ProcessLookupError):
                os.killpg(each.pid, signal.SIGKILL)
            each.wait()
