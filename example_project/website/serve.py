"""`make example`: migrates the database, then keeps site, worker and beat running until Ctrl-C.

What dies is started again; no work is lost by that. Exit codes: 0 it was stopped; 1 it can't start, and the screen
says why.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing

from example_project.blur_o_matic.config import STATE
from example_project.blur_o_matic.stage import Stage, stop

PACKAGE = "example_project.website"
LOGS = STATE / "logs"
#: Seconds between two looks at the processes, and between a process's start and its next one.
LOOK, REST = 0.2, 2.0


class Part:
    """A process of the site that is started again whenever it has ended."""

    def __init__(self, name: str, command: str) -> None:
        self.name = name
        self.log = LOGS / f"{name}.log"
        self._command = [sys.executable, "-m", *command.split()]
        self._begun = float("-inf")
        self.process: subprocess.Popen[bytes] | None = None

    def look(self) -> bool:
        """Start it if it doesn't run; whether that was so."""
        if self.process is not None:
            if self.process.poll() is None or time.monotonic() < self._begun + REST:
                return False
            print(f"The {self.name} ended with code {self.process.returncode} ({self.log}); starting it again.")
        with self.log.open("ab") as log:
            # In a session of its own, so that Ctrl-C reaches us alone and everything is stopped gently.
            self.process = subprocess.Popen(  # noqa: S603  (our own command)
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._begun = time.monotonic()
        return True

    def close(self) -> None:
        """Stop it gently."""
        if self.process is not None:
            stop(self.process)


def parts(host: str, port: int) -> list[Part]:
    """What a site consists of."""
    quiet = "--without-gossip --without-mingle --without-heartbeat --loglevel=INFO"
    return [
        Part("worker", f"celery -A {PACKAGE} worker --concurrency=2 {quiet}"),
        Part("beat", f"celery -A {PACKAGE} beat -S workmanager --pidfile= --loglevel=INFO"),
        Part(
            "site",
            f"uvicorn {PACKAGE}.asgi:application --host {host} --port {port} --lifespan off --no-access-log"
            " --log-level warning --timeout-graceful-shutdown 2",
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the site and return the exit code."""
    parser = argparse.ArgumentParser(prog="make example", description="Blur-O-Matic as a site.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args(arguments)
    stage = Stage("site", PACKAGE)
    if not stage.take():
        return _refuse("expected one site on this checkout, got: another one that runs already")
    stage.end_orphans()
    if (trouble := _why_not(options.host, options.port)) is not None:
        return _refuse(f"expected {options.host}:{options.port} to be free ({trouble}); try: make example PORT=8080")
    LOGS.mkdir(exist_ok=True)
    # The shell may know another project's.
    os.environ["DJANGO_SETTINGS_MODULE"] = f"{PACKAGE}.settings"
    migrated = subprocess.run([sys.executable, "-m", "example_project.manage", "migrate", "--verbosity=0"], check=False)
    if migrated.returncode:
        return _refuse("expected the database to be migrated, see above")
    try:
        _keep(stage, parts(options.host, options.port), options.host, options.port)
    except KeyboardInterrupt:
        print("Stopped. Works that were under way go on at the next start.")
    return 0


def _refuse(why: str) -> int:
    print(why, file=sys.stderr)
    return 1


def _why_not(host: str, port: int) -> OSError | None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def _keep(stage: Stage, running: Sequence[Part], host: str, port: int) -> None:
    """Keep every part running; on the way out the site is stopped first, and the worker last."""
    with ExitStack() as stack:
        for part in running:
            stack.enter_context(closing(part))
        stack.callback(print, "Stopping; Ctrl-C again stops at once.", flush=True)
        is_open = False
        while True:
            begun = [part.look() for part in running]
            if any(begun):
                stage.remember([part.process.pid for part in running if part.process is not None])
            if not is_open and _answers(host, port):
                is_open = True
                print(f"Blur-O-Matic is open: http://{host}:{port}/  (Ctrl-C stops it; logs in {LOGS})", flush=True)
            time.sleep(LOOK)


def _answers(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


if __name__ == "__main__":
    for polite in (signal.SIGINT, signal.SIGTERM):  # the first one too: a shell's background jobs ignore it
        signal.signal(polite, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # before anything was started, or once more while stopping
        sys.exit(130)
