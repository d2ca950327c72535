"""Beats that are turned by hand, on a held clock, each with connections of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.beat import ScheduleEntry

from celery_workmanager.beat_entries import Entries, with_clock
from celery_workmanager.clock import HeldClock
from celery_workmanager.store import Store
from celery_workmanager.timing import SECOND
from tests.stores import register, twin


class Crash(BaseException):
    """The end of a process: nothing catches it."""


class Beat:
    """One beat of an app; `sent` are the fires it published, as (entry, task id)."""

    def __init__(self, store: Store, name: str, app: Celery, schedule: dict[str, Any]) -> None:
        self.store, self.name = twin(store), name
        register(self.store, name, lease=3600 * SECOND)
        assert isinstance(self.store.clock, HeldClock)
        self.app, self.clock = app, self.store.clock
        self.schedule = {
            each: with_clock(ScheduleEntry(name=each, task=f"shop.{each}", schedule=given, app=app), self.store.clock)
            for each, given in schedule.items()
        }
        self.sent: list[tuple[str, str]] = []
        self.publish: Callable[[ScheduleEntry, str], Any] = lambda *_: None
        self.entries = Entries(self.store, "shop", self.schedule, self._publish)

    def _publish(self, entry: ScheduleEntry, task_id: str) -> None:
        self.publish(entry, task_id)
        self.sent.append((entry.name, task_id))

    def step(self) -> float:
        return self.entries.step(self.name)

    @property
    def names(self) -> list[str]:
        """What it sent, in order."""
        return [name for name, _ in self.sent]

    def turn(self, seconds: float, stride: float = 0.0) -> list[str]:
        """Let it do what it would do in this time; returns what it sent meanwhile.

        It sleeps for `stride` seconds at least: nobody else is there to take its schedule.
        """
        before, clock = len(self.sent), self.clock
        end = clock.now() + round(seconds * SECOND)
        while True:
            pause = round(max(self.step(), stride) * SECOND)
            if clock.now() + pause > end:
                clock.move(end - clock.now())
                return self.names[before:]
            clock.move(max(1, pause))

    def close(self) -> None:
        self.store.close()
