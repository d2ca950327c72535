"""A side of the matrix: its app, its real worker, and the words that scenarios use."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from celery import Celery, states

from tests.celery.pool_worker import ROOT
from tests.compat.apps import PREFIX, Facts, make_app
from tests.compat.journal import note, notes

DEADLINE = 40.0
CHILDREN = 8
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def until(condition: Callable[[], Any], what: str = "", deadline: float = DEADLINE) -> Any:
    """Return the first true value of ``condition()``; fail when there is none in time."""
    end = time.monotonic() + deadline
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline} s: {what or condition}")
        time.sleep(0.03)
    return value


def shown(error: BaseException | None) -> Any:
    """An exception in JSON types."""
    return None if error is None else f"{type(error).__name__}: {error}"


def outcome(call: Callable[[], Any]) -> Any:
    """What a call returns, or the exception it raises, in JSON types."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001  # whatever it raises is what is observed
        return f"raises {type(error).__name__}"


def named(value: Any, names: dict[str, str] | None = None) -> Any:
    """JSON types with known ids replaced by what they stand for, and other ids by ``<id>``."""
    names = names or {}
    if isinstance(value, dict):
        return {str(key): named(each, names) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [named(each, names) for each in value]
    if isinstance(value, str):
        for known, name in names.items():
            value = value.replace(known, f"<{name}>")
        return _ID.sub("<id>", value)
    return value


class Side:
    """What a scenario is given; ``side.add`` is the side's task ``compat.add``."""

    def __init__(self, facts: Facts, folder: Path) -> None:
        self.facts, self.folder = facts, folder
        self.is_worker = bool(facts.store)
        self.app: Celery = make_app(facts)
        self._process: subprocess.Popen[bytes] | None = None
        self._events: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._receiver: Any = None
        self._listening: threading.Thread | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return self.app.tasks[PREFIX + name]
        except KeyError:
            raise AttributeError(name) from None

    def other_app(self, **conf: Any) -> Side:
        """This side with another configuration, without a worker of its own; current in this thread."""
        other = Side(replace(self.facts, conf={**self.facts.conf, **conf}), self.folder)
        other.app.set_current()
        return other

    # -- the worker -----------------------------------------------------------------------------------------------

    @property
    def node(self) -> str:
        """The worker's name."""
        return f"{self.facts.space}@compat"

    def launch(self) -> None:
        """Start the worker process."""
        self.folder.mkdir(exist_ok=True)
        environment = {**os.environ, **self.facts.to_environment(), "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
        options = ["-P", "prefork", "-c", str(CHILDREN), "-E", "-l", "INFO", "-n", self.node]
        quiet = ["--without-gossip", "--without-mingle"]
        command = [sys.executable, "-m", "celery", "-A", "tests.compat.project", "worker", *options, *quiet]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )
        self._listening = threading.Thread(target=self._receive, name=f"events-{self.facts.side}", daemon=True)
        self._listening.start()

    def wait_until_ready(self) -> None:
        """Return when the worker answers and its events arrive."""
        self.app.set_current()
        until(lambda: "ready." in self.log, f"{self.facts.side} starts", 60)
        first = self.add.delay(1, 1)
        assert self.get(first) == 2
        until(lambda: self.events(first, "task-succeeded"), f"{self.facts.side} sends events")

    def close(self) -> None:
        """End the worker process and whatever this side holds."""
        if self._receiver is not None:
            self._receiver.should_stop = True
        if self._listening is not None:
            self._listening.join(5)
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self.is_worker:
            self.app.workmanager.store.database.close()

    @property
    def log(self) -> str:
        """What the worker has logged."""
        return (self.folder / "log").read_text(errors="replace")

    def log_lines(self, *words: str) -> list[str]:
        """The lines of the log with all of these words."""
        return [line for line in self.log.splitlines() if all(word in line for word in words)]

    # -- events ---------------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        with self.app.connection_for_read() as connection:
            self._receiver = self.app.events.Receiver(connection, handlers={"*": self._heard})
            self._receiver.capture(limit=None, timeout=None, wakeup=False)

    def _heard(self, event: dict[str, Any]) -> None:
        if "uuid" in event:
            self._events[event["uuid"]].append(event)

    def events(self, result: Any, kind: str | None = None) -> list[dict[str, Any]]:
        """The events about a task so far."""
        return [event for event in list(self._events[str(result)]) if kind in (None, event["type"])]

    # -- words of the scenarios -----------------------------------------------------------------------------------

    def new_id(self) -> str:
        """An id that nobody has used."""
        return str(uuid.uuid4())

    def ended(self, *results: Any) -> Any:
        """Wait until these results are ready; return the (last) one."""
        for result in results:
            until(result.ready, f"{result!r} is ready")
        return results[-1]

    def get(self, result: Any, **options: Any) -> Any:
        """Wait for a result and return its value, or raise its exception."""
        return self.ended(result).get(timeout=DEADLINE, interval=0.03, **options)

    def state(self, result: Any) -> str:
        """The state in which a result ends."""
        return str(self.ended(result).state)

    def failure(self, result: Any) -> Any:
        """The exception with which a result ends, in JSON types."""
        ended = self.ended(result)
        assert ended.state in (states.FAILURE, states.REVOKED), ended.state
        return shown(ended.result)

    def notes(self, key: Any) -> list[Any]:
        """What was noted under a key so far."""
        return notes(str(key), self.app)

    def note(self, key: Any, value: Any = "go") -> None:
        """Leave a note, for a task that waits for it."""
        note(str(key), value, self.app)

    def noted(self, key: Any, count: int = 1) -> list[Any]:
        """Wait for this many notes under a key and return all there are."""
        until(lambda: len(self.notes(key)) >= count, f"{count} notes under {key}")
        return self.notes(key)

    def names_of(self, **results: Any) -> dict[str, str]:
        """Names for the ids of results, for ``named``."""
        return {str(getattr(result, "id", result)): name for name, result in results.items()}


def pick(source: Any, fields: Iterable[str]) -> dict[str, Any]:
    """Some attributes as a dict."""
    return {name: getattr(source, name) for name in fields}
