"""A node that runs nothing: it keeps time for all works of the store, and lets others see that it lives.

It hosts the same upkeep as every worker. Where the bell is heard it doesn't poll: it sleeps until the next moment at
which something is due, and is woken when something earlier is enqueued.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

from celery_workmanager.bell import listen
from celery_workmanager.clock import Clock
from celery_workmanager.duties import Duties
from celery_workmanager.lease import RENEWALS, this_process
from celery_workmanager.outage import Outage
from celery_workmanager.settings import Settings
from celery_workmanager.store import Store
from celery_workmanager.timing import SECOND
from celery_workmanager.upkeep import Upkeep

__all__ = ["Timekeeper"]


class Timekeeper:
    """Keeps time from `start` to `stop`; `facts` are what the node tells of itself, `longest` its longest sleep (s)."""

    def __init__(
        self, store: Store, clock: Clock, settings: Settings, *, name: str, facts: Callable[[], Mapping[str, Any]],
        longest: float,
    ) -> None:  # fmt: skip
        self._store = store
        self._clock = clock
        self._settings = settings
        self._name = name
        self._facts = facts
        self.outage = Outage("nothing is promoted or fired meanwhile")
        self.upkeep = Upkeep(store, clock, settings)
        self._duties = Duties(self.outage, prove=True)
        #: Does a duty: what it returns; ``None`` after a pause when the store is away, or something is wrong with it.
        self.guarded = self._duties.guarded
        self._ear = listen(store.database, self._duties.told.set)
        self._longest = longest
        self._threads: list[threading.Thread] = []
        #: The identity of this node; "" before the store was reached.
        self.node = ""

    def start(self) -> None:
        """Begin to keep time. The store may be away: it is tried again until it is there."""
        self._threads = [
            threading.Thread(target=self._keep_lease, name="workmanager-lease", daemon=True),
            threading.Thread(target=self._keep_up, name="workmanager-upkeep", daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        self._ear.start()

    def stop(self) -> None:
        """End the threads and give the identity back, if the store is there."""
        self._duties.stopped.set()
        self._duties.told.set()
        self._ear.stop()
        for thread in self._threads:
            thread.join(timeout=self._settings.name_wait + 5)
        if self.node and not self.outage.is_on:
            self.guarded(lambda: self._store.unregister(self.node), "The farewell")

    def renew(self) -> None:
        """Give proof of life; a node that was declared lost goes on as a new one. Raises while the store is away."""
        self._store.open()  # from then on the clock is the database's
        until = self._clock.now() + round(self._settings.lease * SECOND)
        facts = json.dumps(dict(self._facts()))
        if not self.node or not self._store.renew(self.node, until, facts):
            row = this_process(self._name, self._clock.now(), until, facts)
            self._store.register(row)
            self.node = row.id

    def _keep_lease(self) -> None:
        while not self._duties.stopped.is_set():
            self.guarded(self.renew, "The lease")
            self._duties.stopped.wait(self._settings.lease / RENEWALS)

    def _keep_up(self) -> None:
        while not self._duties.stopped.is_set():
            self.guarded(self.upkeep.step, "Upkeep")
            # Asked each time: the first connection shows whether anything can be heard through it.
            longest = min(self._longest, self._settings.poll_interval) if self._ear.is_deaf else self._longest
            self._duties.rest(self.upkeep.until_next(min(longest, self.upkeep.until_duty())))
