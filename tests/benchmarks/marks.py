"""Marks in a mapped file: when each numbered job began, written by whoever runs it (about a microsecond each)."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path

ENVIRONMENT = "WORKMANAGER_BENCH_MARKS"
_SIZE = 8


class Marks:
    """``time.monotonic()`` of the start of jobs 0 … `count`; comparable between the processes of one machine."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._times = memoryview(self._map).cast("d")
        self._seen = 0

    @classmethod
    def create(cls, path: Path, count: int) -> Marks:
        """Make an empty file of marks."""
        path.write_bytes(bytes(count * _SIZE))
        return cls(path)

    def set(self, number: int) -> None:
        """Mark the start of a job, now."""
        self._times[number] = time.monotonic()

    def get(self, number: int) -> float:
        """When a job began; 0.0 if it hasn't."""
        return self._times[number]

    def wait(self, count: int, deadline: float, check: Callable[[], None] = lambda: None) -> None:
        """Return when jobs 0 … `count` have begun; looking costs next to nothing. `check` may raise meanwhile."""
        end = time.monotonic() + deadline
        while self._seen < count:
            if self._times[self._seen]:
                self._seen += 1
            elif time.monotonic() > end:
                raise TimeoutError(f"expected {count} starts within {deadline} s, got: {self._seen} in a row")
            else:
                check()
                time.sleep(0.02)

    def wait_any(self, count: int, deadline: float, check: Callable[[], None] = lambda: None) -> None:
        """Return when any of jobs 0 … `count` has begun."""
        end = time.monotonic() + deadline
        while not self.begun(count):
            check()
            if time.monotonic() > end:
                raise TimeoutError(f"expected a start within {deadline} s, got none")
            time.sleep(0.005)

    def begun(self, count: int) -> int:
        """How many of jobs 0 … `count` have begun."""
        return sum(map(bool, self._times[:count]))

    def span(self, count: int) -> float:
        """Seconds from the first to the last of `count` starts."""
        times = [self._times[number] for number in range(count)]
        return max(times) - min(times)

    def clear(self) -> None:
        """Forget all marks."""
        self._map[:] = bytes(len(self._map))
        self._seen = 0


_here: list[Marks] = []


def mark(number: int) -> None:
    """Mark the start of a job in the file that the environment names."""
    if not _here:
        _here.append(Marks(Path(os.environ[ENVIRONMENT])))
    _here[0].set(number)
