"""What an engine keeps of the claims it was handed."""

from __future__ import annotations

from typing import Any

from celery_workmanager.outcome import Claim
from celery_workmanager.request import WorkRequest
from celery_workmanager.slots import Slots
from celery_workmanager.work import StopReason

__all__ = ("Flight", "Job")


class Flight:
    """A claim between hand-over and outcome."""

    __slots__ = ("announced", "claim", "number", "over", "request", "seen", "slot", "stop")

    def __init__(self, claim: Claim, request: WorkRequest) -> None:
        self.claim, self.request = claim, request
        self.slot = -1
        self.number = 0
        #: Its start was told.
        self.announced = False
        #: It has its outcome; whatever the pool says afterwards is ignored.
        self.over = False
        #: The sequence number of the newest progress that was collected.
        self.seen = 0
        #: Why it was asked to stop.
        self.stop: StopReason | None = None

    def is_in_foreground(self, slots: Slots) -> bool:
        """Whether its run has said that it is long, and shows so."""
        return self.slot >= 0 and slots.foreground(self.slot) is not None


class Job:
    """One hand-over to the pool: flights that run one after the other in one process."""

    __slots__ = ("flights", "handle", "withdrawn")

    def __init__(self, flights: list[Flight]) -> None:
        self.flights = flights
        #: The pool's own object for it.
        self.handle: Any = None
        #: Nothing more of it may start.
        self.withdrawn = False
