"""One sensor: reads something of this node again and again, in a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from celery_workmanager.readings import Reading

__all__ = ("Read", "Sensor")

logger = logging.getLogger(__name__)

#: Reads facts; None: it takes another reading.
Read = Callable[[], Mapping[str, Any] | None]


class Sensor:
    """Reads every `interval` seconds. What doesn't answer for `patience` seconds more is unknown, until it does.

    `make` is called in the sensor's thread too, and again as long as it fails.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Read],
        *,
        interval: float,
        patience: float,
        now: Callable[[], int],
        changed: Callable[[], None],
    ) -> None:
        self._name, self._make, self._now, self._changed = name, make, now, changed
        self._interval, self._patience = interval, patience
        self._reading = Reading(None, note="not read yet")
        self._due = time.monotonic() + patience
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"workmanager-sensor-{name}", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Read no more. Doesn't wait: it may hang."""
        self._stop.set()

    @property
    def reading(self) -> Reading:
        """What was read last, if that isn't too long ago."""
        if time.monotonic() <= self._due:
            return self._reading
        return Reading(None, self._reading.at, f"no answer for more than {self._patience:g} s")

    def _run(self) -> None:
        read: Read | None = None
        while not self._stop.is_set():
            value, failed = None, False
            try:
                read = read or self._make()
                value = read()
                note = "" if value is not None else "it takes another reading"
            except Exception as error:  # noqa: BLE001  # what a sensor raises is what there is to say of it
                note, failed = f"{type(error).__name__}: {error}", True
            self._due = time.monotonic() + self._interval + self._patience
            before, self._reading = self._reading, Reading(value, self._now(), note)
            if failed and note != before.note:
                logger.warning("Sensor %s of this node: %s", self._name, note)
            if (before.value, before.note) != (value, note):
                self._changed()
            self._stop.wait(self._interval)
