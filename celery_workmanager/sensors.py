"""Reading the node in the background: whoever asks for the readings is answered at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from celery_workmanager.constraints import Constraints
from celery_workmanager.readings import Readings
from celery_workmanager.settings import Settings

__all__ = ("Sensors",)


class Sensors:
    """The sensors of one node. `now`: microseconds since 1970; `on_change`: called in a thread of ours."""

    def __init__(
        self, settings: Settings, now: Callable[[], int], on_change: Callable[[], None] = lambda: None
    ) -> None:
        self._settings, self._now, self._on_change = settings, now, on_change

    def start(self) -> None:
        """Begin to read; the first readings follow within moments, until then nothing is known."""

    def watch(self, sets: Iterable[Constraints]) -> None:
        """Read what these ask for beside the usual: their probes and custom constraints."""

    def readings(self) -> Readings:
        """What was read last; never blocks."""
        return Readings.NONE

    def close(self) -> None:
        """Stop reading."""
