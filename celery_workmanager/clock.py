"""The engine's clock: this machine's monotonic time plus the measured offset to the database's clock.

All nodes and producers of a store agree on one clock, the database's, however wrong their own is; and a step of the
system clock moves nothing that runs.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where the engine asks for the time."""

    def now(self) -> int:
        """Microseconds since 1970-01-01 UTC."""

    def monotonic(self) -> float:
        """Seconds that never step back; comparable between the processes of one machine."""


class SystemClock:
    """Monotonic time with an offset that `measured` sets."""

    def __init__(self) -> None:
        self._offset = time.time_ns() // 1000 - time.monotonic_ns() // 1000

    def now(self) -> int:
        """Microseconds since 1970-01-01 UTC by the database's clock, as last measured."""
        return time.monotonic_ns() // 1000 + self._offset

    def monotonic(self) -> float:
        """Seconds of ``CLOCK_MONOTONIC``."""
        return time.monotonic()

    def measured(self, before: float, database_now: int, after: float) -> None:
        """Take over the database's time, read between the monotonic moments `before` and `after` (seconds)."""
        middle = int((before + after) / 2 * 1_000_000)
        self._offset = database_now - middle


class HeldClock:
    """A clock that moves only when told to: for tests."""

    def __init__(self, start: int) -> None:
        self._now = start
        self._elapsed = 0

    def now(self) -> int:
        """Microseconds since 1970-01-01 UTC, as held."""
        return self._now

    def monotonic(self) -> float:
        """Seconds that this clock was moved forward by in all."""
        return self._elapsed / 1_000_000

    def step(self, microseconds: int) -> None:
        """Set the wall clock forward or back (less than zero): no time passes."""
        self._now += microseconds

    def move(self, microseconds: int) -> None:
        """Move on by `microseconds`, which may not be negative."""
        self._now += microseconds
        self._elapsed += microseconds
