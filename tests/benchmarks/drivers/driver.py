"""What a benchmark asks of a system: one process of its own for each, which enqueues and waits, told over a pipe.

Standard library only: a peer's driver runs in the peer's own environment.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.marks import ENVIRONMENT, Marks

#: The file of the jobs' start marks, and the size of the text that each job takes with it.
TEXT = "x" * int(os.environ.get("WORKMANAGER_BENCH_TEXT", "8"))
#: Seconds in which nothing happens before the next job of a latency measurement.
REST = 0.03
PATIENCE = 120.0
#: How many jobs go into one call of a system's own bulk enqueue.
BULK = 1000


class Driver:
    """The client's side of one system. A method that isn't there is a row's "not known to this system"."""

    def __init__(self) -> None:
        self.marks = Marks(Path(os.environ[ENVIRONMENT]))

    def reset(self) -> None:
        """Make the schema where there is none, and forget all jobs."""
        raise NotImplementedError

    def enqueue(self, number: int) -> Any:
        """Enqueue job `number`; returns what `wait` takes."""
        raise NotImplementedError

    def wait(self, handle: Any) -> None:
        """Return when that job's end can be seen by its producer; results that are ignored end at their start."""
        raise NotImplementedError

    def enqueue_each(self, first: int, count: int) -> None:
        """`count` jobs, one call each."""
        for number in range(first, first + count):
            self.enqueue(number)

    def enqueue_many(self, first: int, count: int) -> None:
        """`count` jobs in the cheapest way the system has."""
        raise NotImplementedError

    def check_done(self, count: int) -> None:
        """Raise unless `count` jobs have ended well."""

    def latencies(self, count: int) -> tuple[list[float], list[float]]:
        """Milliseconds from the call that enqueues to the start, and to the end as the producer sees it."""
        starts, ends = [], []
        for number in range(count):
            time.sleep(REST)
            begun = time.monotonic()
            self.wait(self.enqueue(number))
            ended = time.monotonic()
            self.await_mark(number)
            start = self.marks.get(number)
            starts.append((start - begun) * 1e3)
            ends.append((max(start, ended) - begun) * 1e3)
        return starts, ends

    def await_mark(self, number: int) -> None:
        """Return when job `number` has begun."""
        until = time.monotonic() + PATIENCE
        while not self.marks.get(number):
            if time.monotonic() > until:
                raise TimeoutError(f"expected job {number} to start within {PATIENCE} s")
            time.sleep(0.0005)


def serve(make: Callable[[], Driver]) -> None:
    """Answer calls, one JSON line each, until standard input ends. Seconds and CPU are those of the call alone."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints
    driver = make()
    for line in sys.stdin:
        name, arguments = json.loads(line)
        answers.write(json.dumps(_answer(driver, name, arguments)) + "\n")


def _answer(driver: Driver, name: str, arguments: list[Any]) -> dict[str, Any]:
    method = getattr(driver, name, None)
    if method is None:
        return {"absent": True}
    begun, cpu = time.perf_counter(), time.process_time()
    try:
        value = method(*arguments)
    except NotImplementedError:
        return {"absent": True}
    except Exception as error:  # noqa: BLE001  (whatever it is, it belongs into the report of the one who asked)
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    return {"value": value, "seconds": time.perf_counter() - begun, "cpu": time.process_time() - cpu}
