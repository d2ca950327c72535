"""Where the canvas cases are played: a real worker in a subprocess, and the same app in the test's process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import cycle
from pathlib import Path
from typing import Any

from celery import Celery, Signature, _state
from celery.exceptions import TimeoutError as NotInTime

from celery_workmanager import schema
from tests.canvas.canvas_app import ENVIRONMENT, NOTES, PLAIN, TASKS, build

ROOT = Path(__file__).parents[2]
DEADLINE = 20.0
#: The backend of Celery's that waits by polling would look only twice a second.
POLL = 0.01

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class Tasks:
    """The tasks of one prefix, by name."""

    def __init__(self, app: Celery, prefix: str) -> None:
        self._app, self._prefix = app, prefix

    def __getattr__(self, name: str) -> Any:
        return self._app.tasks[f"{self._prefix}.{name}"]


class Mixed:
    """Workers and plain tasks in turn: what a canvas asks for first is a Worker, the next is plain, and so on."""

    def __init__(self, workers: Tasks, plain: Tasks, first: str) -> None:
        self._plain = plain
        self._pattern = cycle((workers, plain) if first == "worker first" else (plain, workers))

    def __getattr__(self, name: str) -> Any:
        # A Worker is replaced by Workers alone; what replaces a plain task may be anything.
        return getattr(self._plain if name.startswith("swap") else next(self._pattern), name)


class Stage:
    """One case being played on one side."""

    def __init__(self, app: Celery, folder: Path, key: str) -> None:
        self.app, self._folder, self.key = app, folder, key

    def value(self, what: Any, *args: Any, **options: Any) -> Any:
        """What a canvas (started here) or a result comes to; an error as its type's name and its sentence."""
        result = what.apply_async(args, **options) if isinstance(what, Signature) else what
        try:
            return _shown(result.get(timeout=DEADLINE, interval=POLL, propagate=False))
        except NotInTime:
            raise AssertionError(f"nothing came of {result!r} within {DEADLINE} s") from None

    def ended(self, result: Any) -> str:
        """The state in which a result ends."""
        self.until(result.ready, f"{result!r} is ready")
        return str(result.state)

    def notes(self, count: int) -> list[Any]:
        """What the tasks of this case have noted, once there are `count` notes."""
        self.until(lambda: len(self.noted) >= count, f"{count} notes, got: {self.noted}")
        return self.noted

    def sorted_notes(self, count: int) -> list[Any]:
        """The same, where the order is left to chance."""
        return sorted(self.notes(count), key=repr)

    @property
    def noted(self) -> list[Any]:
        """What has been noted so far."""
        path = self._folder / self.key
        return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """The first true value of the condition."""
        end = time.monotonic() + DEADLINE
        while not (value := condition()):
            if time.monotonic() > end:
                raise AssertionError(f"not within {DEADLINE} s: {what}")
            time.sleep(POLL)
        return value


class Side:
    """An app, its worker in a process of its own, and the cases played there."""

    def __init__(self, folder: Path, name: str, *, concurrency: int, **app: Any) -> None:
        self.folder, self.name, self.concurrency = folder, name, concurrency
        self._given = {**app, "queue": f"canvas-{name}-{os.getpid()}"}
        self._process: subprocess.Popen[bytes] | None = None
        #: What each case had noted when it was looked at.
        self.seen: dict[str, list[Any]] = {}

    @cached_property
    def app(self) -> Celery:
        """The app in this process."""
        return build(**self._given)

    def start(self) -> None:
        """Start the worker, and don't wait for it: what is asked of it waits."""
        self.folder.mkdir(exist_ok=True)
        if self._given["store"] is not None:
            schema.migrate(self.app.workmanager.store.database)
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
            NOTES: str(self.folder),
            ENVIRONMENT: json.dumps(self._given),
        }
        quick = f"--without-gossip --without-mingle --without-heartbeat -l INFO -c {self.concurrency}".split()
        command = [sys.executable, "-m", "celery", "-A", "tests.canvas.canvas_app", "worker", "-n", self.name, *quick]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def terminate(self) -> None:
        """Tell the worker to end, and don't wait for it."""
        if self._process is not None:
            self._process.terminate()

    def close(self) -> None:
        """Wait for the end of the worker and let go of what the app holds."""
        if self._process is not None:
            try:
                self._process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if "app" in self.__dict__:
            _let_go(self.app)

    def tasks(self, pattern: str) -> Any:
        """The tasks a case takes: `"workers"`, or an alternation that begins as it says."""
        own = Tasks(self.app, TASKS)
        if pattern == "workers":
            return own
        return Mixed(own, Tasks(self.app, PLAIN), pattern)

    def play(self, name: str, play: Callable[[Any, Stage], Any], pattern: str = "workers") -> Any:
        """Play a case and return what it observed."""
        assert self._process is not None
        assert self._process.poll() is None, f"the worker has exited, see {self.folder / 'log'}"
        stage = Stage(self.app, self.folder, f"{name} {pattern}".replace(" ", "_"))
        with current(self.app):
            observed = play(self.tasks(pattern), stage)
        self.seen[stage.key] = stage.noted
        return observed

    def noted_since(self) -> dict[str, list[Any]]:
        """The notes of cases that have got more since they were looked at."""
        stages = {key: Stage(self.app, self.folder, key).noted for key in self.seen}
        return {key: noted for key, noted in stages.items() if noted != self.seen[key]}


def _shown(value: Any) -> Any:
    if isinstance(value, Exception):
        return (type(value).__name__, _UUID.sub("<id>", str(value)))
    return [_shown(each) for each in value] if isinstance(value, list) else value


def _let_go(app: Celery) -> None:
    """Close what the app has opened in this process."""
    if hasattr(app, "workmanager"):
        app.workmanager.store.close()
    client = getattr(app.backend, "client", None)
    if client is not None:
        app.backend.result_consumer.stop()
        # A result that is deleted later would open it again.
        app.backend.result_consumer._pubsub = None
        client.connection_pool.disconnect()
    app.pool.force_close_all()
    app.close()


@contextmanager
def current(app: Celery) -> Iterator[None]:
    """Celery looks up what a signature of no task belongs to in the current app."""
    before = _state._tls.current_app
    app.set_current()
    try:
        yield
    finally:
        _state._tls.current_app = before
