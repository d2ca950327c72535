"""The processes of a demonstration: one at a time on a checkout, and what it starts never outlives it for long."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import psutil

from example_project.blur_o_matic.config import STATE

APP = "example_project.blur_o_matic.app"
LOG = STATE / "worker.log"
#: Seconds that a worker gets to end what it runs, and then to give it back.
PATIENCE = 15, 10


class Stage:
    """A lock that the system takes away with the process that holds it; its file names the processes it started.

    ``app`` is a word in the commands of those processes.
    """

    def __init__(self, name: str = "demo", app: str = APP) -> None:
        self._file = (STATE / f"{name}.lock").open("a+")
        self._app = app

    def take(self, *, wait: bool = False) -> bool:
        """Whether the stage is ours now; False when somebody else is on it."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    @contextmanager
    def worker(self) -> Iterator[subprocess.Popen[bytes]]:
        """A Celery worker of our own; on the way out it ends what it runs and gives the rest back."""
        self.end_orphans()
        command = [sys.executable, "-m", "celery", "-A", APP, "worker", "--concurrency=2", "--loglevel=INFO"]
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        with LOG.open("wb") as log:
            # In a session of its own, so that Ctrl-C reaches us alone and the worker is stopped gently.
            worker = subprocess.Popen(  # noqa: S603  (our own command)
                [*command, *quiet], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.remember([worker.pid])
        try:
            yield worker
        finally:
            stop(worker)

    def remember(self, pids: Iterable[int]) -> None:
        """Write down what runs."""
        self._file.truncate(0)
        self._file.write(" ".join(map(str, pids)))
        self._file.flush()

    def end_orphans(self) -> None:
        """End the processes of somebody who was killed and could not do so."""
        self._file.seek(0)
        for pid in self._file.read().split():
            with suppress(ValueError, psutil.Error):
                orphan = psutil.Process(int(pid))
                if any(self._app in word for word in orphan.cmdline()):
                    orphan.kill()
                    orphan.wait(PATIENCE[1])


def stop(process: subprocess.Popen[bytes]) -> None:
    """Celery's warm shutdown; its cold one when that takes too long; and a second Ctrl-C ends it at once."""
    try:
        for how, patience in zip((signal.SIGTERM, signal.SIGQUIT), PATIENCE, strict=True):
            process.send_signal(how)
            with suppress(subprocess.TimeoutExpired):
                process.wait(patience)
                return
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
