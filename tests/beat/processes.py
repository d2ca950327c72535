"""`celery beat -S workmanager` and `celery worker -B` in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from tests.beat import beat_app

ROOT = Path(__file__).parents[2]


class Process:
    """One `celery` process of the beat app, started at once; its folder is the test's."""

    def __init__(self, folder: Path, store: str, broker: str, *arguments: str, name: str = "beat", **env: str) -> None:
        self._log = folder / f"{name}.log"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
        environment |= {beat_app.FOLDER: str(folder), beat_app.STORE: store, beat_app.BROKER: broker, **env}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "tests.beat.beat_app", *arguments, "-l", "INFO"],
                env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> float:
        """SIGTERM; returns the seconds it took to end."""
        begun = time.monotonic()
        self._process.terminate()
        self._process.wait(60)
        return time.monotonic() - begun

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    def end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


def beat(folder: Path, store: str, broker: str, *arguments: str, **options: str) -> Process:
    return Process(folder, store, broker, "beat", "-S", "workmanager", *arguments, **options)
