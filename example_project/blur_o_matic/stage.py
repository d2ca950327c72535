"""The processes of the demonstration: one demo at a time on a checkout, and the Celery worker it starts."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from example_project.blur_o_matic.config import STATE

APP = "example_project.blur_o_matic.app"
LOG = STATE / "worker.log"
#: Seconds that a worker gets to end what it runs, and then to give it back.
PATIENCE = 15, 10


class Stage:
    """A lock that the system takes away with the process that holds it; its file names the worker."""

    def __init__(self) -> None:
        self._file = (STATE / "demo.lock").open("a+")

    def take(self, *, wait: bool = False) -> bool:
        """Whether the stage is ours now; False when another demo is on it."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    @contextmanager
    def worker(self) -> Iterator[subprocess.Popen[bytes]]:
        """A Celery worker of our own; on the way out it ends what it runs and gives the rest back."""
        self._end_orphan()
        command = [sys.executable, "-m", "celery", "-A", APP, "worker", "--concurrency=2", "--loglevel=INFO"]
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        with LOG.open("wb") as log:
            # In a session of its own, so that Ctrl-C reaches us alone and the worker is stopped gently.
            worker = subprocess.Popen(  # noqa: S603  (our own command)
                [*command, *quiet], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._remember(worker.pid)
        try:
            yield worker
        finally:
            _stop(worker)

    def _remember(self, pid: int) -> None:
        self._file.truncate(0)
        self._file.write(str(pid))
        self._file.flush()

    def _end_orphan(self) -> None:
        """End the worker of a demo that was killed and could not do so itself."""
        self._file.seek(0)
        pid = self._file.read()
        with suppress(ValueError, psutil.Error):
            orphan = psutil.Process(int(pid))
            if APP in orphan.cmdline():
                orphan.kill()
                orphan.wait(PATIENCE[1])


def _stop(worker: subprocess.Popen[bytes]) -> None:
    """Celery's warm shutdown; its cold one when that takes too long; and a second Ctrl-C ends it at once."""
    try:
        for how, patience in zip((signal.SIGTERM, signal.SIGQUIT), PATIENCE, strict=True):
            worker.send_signal(how)
            with suppress(subprocess.TimeoutExpired):
                worker.wait(patience)
                return
    finally:
        with suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
