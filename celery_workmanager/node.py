"""A node: the dispatcher, the lease, the upkeep and the bell of one worker, each turned by a thread of its own.

The lease has its own thread, because nothing may keep it from being renewed: neither a slow commit nor a busy pool.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from celery_workmanager.bell import listen
from celery_workmanager.clock import Clock
from celery_workmanager.dispatcher import Dispatcher
from celery_workmanager.duties import Duties
from celery_workmanager.file_triggers import FileTriggers
from celery_workmanager.lease import Lease
from celery_workmanager.messenger import Messenger
from celery_workmanager.offer import Offer
from celery_workmanager.outage import Outage
from celery_workmanager.outcome import Claim
from celery_workmanager.revocations import Revocations
from celery_workmanager.running import Engine
from celery_workmanager.sensors import Sensors
from celery_workmanager.settings import Settings
from celery_workmanager.store import Store
from celery_workmanager.throttle import BucketOf
from celery_workmanager.upkeep import Upkeep
from celery_workmanager.version import __version__
from celery_workmanager.watching import FileWatcher, can_watch
from celery_workmanager.work import StopReason

_LOOK = 0.02
#: Seconds between two judgements of what runs, when no reading changes: hours of day pass without one.
_JUDGE = 1.0
#: Where the bell is heard, and nothing waits, a node looks by itself so many times more seldom.
HEARD = 5


class Node:
    """Runs works in one worker from `start` to `close`."""

    def __init__(
        self,
        store: Store,
        engine: Engine,
        clock: Clock,
        settings: Settings,
        *,
        name: str,
        lanes: Callable[[], Mapping[int, str]],
        facts: Callable[[], Mapping[str, Any]],
        bucket_of: BucketOf | None = None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._outage = Outage()
        self._sensors = Sensors(settings, clock.now, self._on_change)
        self._offer = Offer(lanes, clock, self._sensors.readings, self._sensors.watch)
        self._files = FileTriggers(store, clock, self._offer, FileWatcher if can_watch() else None)
        self.dispatcher = Dispatcher(
            store,
            engine,
            clock,
            self._offer,
            max_in_flight=settings.max_in_flight,
            name=name,
            outage=self._outage,
            bucket_of=bucket_of,
            files=self._files,
            # SQLite has one writer at a time: there a second thread would wait for the first.
            aside=None if store.database.is_sqlite else Messenger("workmanager-settlement").post,
        )
        self.lease = Lease(
            store,
            self.dispatcher,
            clock,
            name,
            length=settings.lease,
            stop_grace=settings.stop_grace,
            facts=lambda: {**facts(), **self._facts()},
            outage=self._outage,
        )
        self.upkeep = Upkeep(store, clock, settings, self.dispatcher.look_again)
        self._revocations = Revocations(store)
        self._ear = listen(store.database, self._on_ring, tries=True)
        self._rung = threading.Event()
        self._is_rung = False
        self._changed = threading.Event()
        self._duties = Duties(self._outage)
        self._threads: list[threading.Thread] = []

    def _facts(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "readings": self._sensors.readings().to_json(),
            "watches_files": can_watch(),
            "is_closing": self.dispatcher.closed,
        }

    def start(self) -> None:
        """Start to claim. The store may be away: it is tried again until it is there."""
        self.dispatcher.start()
        self._sensors.start()
        self._threads = [
            threading.Thread(target=self._dispatch, name="workmanager-dispatcher", daemon=True),
            threading.Thread(target=self._keep_lease, name="workmanager-lease", daemon=True),
            threading.Thread(target=self._keep_up, name="workmanager-upkeep", daemon=True),
            threading.Thread(target=self._watch, name="workmanager-watch", daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        self._ear.start()

    def _on_ring(self) -> None:
        self.dispatcher.bell_rang()
        self._is_rung = True
        # While nothing runs, nothing can have lost its work; and what is claimed now has one thread less beside it.
        if self.dispatcher.runs:
            self._rung.set()
        self._duties.told.set()

    def _on_change(self) -> None:
        """A reading has changed: something runs here no longer, something may be claimed."""
        self._changed.set()
        self.dispatcher.rung.set()
        self.lease.facts_changed()

    def _dispatch(self) -> None:
        while not self._duties.stopped.is_set():
            if not self.dispatcher.guarded_step():
                self.dispatcher.wait(self._patience(nothing_waits=self.dispatcher.sees_nothing))

    def _patience(self, *, nothing_waits: bool) -> float:
        """Seconds between two looks at the store when nothing rings."""
        poll = self._settings.poll_interval
        # What waits for a reading, an hour or somebody's transaction comes free without a ring.
        return max(poll, min(HEARD * poll, self._settings.lease / 3)) if nothing_waits and self._ear.is_heard else poll

    def _keep_lease(self) -> None:
        # A first look heals what died on this machine, so that its works needn't wait for a lease to run out.
        rung = False
        while not self._duties.stopped.is_set():
            self._duties.guarded(lambda rung=rung: self.lease.step(rung=rung), "The lease")  # type: ignore[misc]
            self._rung.wait(self.lease.until_next())
            self._rung.clear()
            rung, self._is_rung = self._is_rung, False

    def _keep_up(self) -> None:
        patience = 0.0
        while not self._duties.stopped.is_set():
            self._duties.guarded(self._revocations.write, "Revoking")
            self._duties.guarded(partial(self.upkeep.step, patience), "Upkeep")
            # Often enough for a short lease: an upkeep that rests for half of one has to take itself for cut off.
            patience = self._patience(nothing_waits=True)
            rest = min(self.upkeep.until_asked(patience), self._settings.lease / 5)
            if self._duties.rest(self.upkeep.until_next(rest)):
                patience = 0.0

    def _watch(self) -> None:
        # In a thread of its own: neither an absent store nor a slow one may keep a run from being stopped.
        pause = min(_JUDGE, self._settings.lease / 15)
        # Nobody can take works from us through a SQLite store that is locked, and no network lies before it.
        hangs = not self._store.database.is_sqlite
        while not self._duties.stopped.is_set():
            self._changed.wait(pause)
            self._changed.clear()
            if hangs:
                self._duties.guarded(self.lease.watch, "Watching the lease")
            self._duties.guarded(self._judge, "Watching the constraints")

    def _judge(self) -> None:
        self.dispatcher.stop_what_lost_its_constraints(self._settings.stop_grace)
        self._offer.forget()

    def revoked(self, claim: Claim) -> None:
        """An operator revoked this claim: cancel its work."""
        self.dispatcher.revoked(claim)

    def revoke(self, ids: Sequence[str], tags: Sequence[str], reason: StopReason) -> None:
        """An operator revoked works, here or anywhere: cancel them soon. Doesn't wait for the store."""
        self._revocations.add(ids, reason)
        self._revocations.add_tags(tags, reason)
        self._duties.told.set()

    # -- shutting down ----------------------------------------------------------------------------------------------

    def shutting_down(self) -> None:
        """The worker was asked to stop: claim nothing more, give back what hasn't begun.

        Runs in a signal handler, maybe twice, so it touches no lock; the engine's answers wake the dispatcher.
        """
        self.dispatcher.close_to_new()
        self.lease.facts_changed()

    def drain(self, unless: Callable[[], bool] = lambda: False) -> None:
        """Wait until everything that runs has ended and is written, ``unless`` that is true meanwhile.

        A store that is away is waited for no longer than a lease: by then others may take the works.
        """
        while self.dispatcher.runs and not unless():
            self._duties.stopped.wait(_LOOK)
        deadline = time.monotonic() + self._settings.lease
        while not self.dispatcher.is_idle and time.monotonic() < deadline and not unless():
            self._duties.stopped.wait(_LOOK)

    def terminate(self) -> None:
        """The worker ends now: write what is known, as stopped by the system."""
        self.dispatcher.accepting = False
        self._end_threads()
        self._duties.guarded(lambda: self.dispatcher.abandon(StopReason.SYSTEM_PROCESSING), "the dispatcher")

    def close(self) -> None:
        """End the threads and give the identity back."""
        self._end_threads()
        self._duties.guarded(self._revocations.write, "Revoking")
        self._duties.guarded(self.lease.release, "the lease")

    def _end_threads(self) -> None:
        self._duties.stopped.set()
        self.dispatcher.rung.set()
        self._rung.set()
        self._changed.set()
        self._duties.told.set()
        self._ear.stop()
        self._sensors.close()
        self._files.close()
        for thread in self._threads:
            thread.join(timeout=self._settings.name_wait + 5)
