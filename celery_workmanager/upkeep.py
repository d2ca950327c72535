"""What time does: due works are promoted, expired ones cancelled, lost nodes healed, old works pruned.

Every duty is a guarded, limited statement that anyone may run at any moment, so there is no leader to lose.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from celery_workmanager.clock import Clock
from celery_workmanager.lease import dead_nodes, this_host
from celery_workmanager.settings import Settings
from celery_workmanager.store import Store, pausing
from celery_workmanager.timing import SECOND

logger = logging.getLogger(__name__)

#: Seconds between two looks at a part of the blocked works.
SWEEP_INTERVAL = 10.0
#: Seconds between two steps, at least.
BREATH = 0.015


@dataclass(slots=True)
class _Duty:
    interval: float
    at: float = 0.0

    def is_due(self, now: float) -> bool:
        if now < self.at:
            return False
        # Jitter, so that nodes which started together don't stay together.
        self.at = now + self.interval * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
        return True


class Upkeep:
    """The duties of one process; `step` does those that are due.

    `promoted` is called when this has made works claimable, so that a node needn't wait for its own ring.
    """

    def __init__(
        self, store: Store, clock: Clock, settings: Settings, promoted: Callable[[], None] = lambda: None
    ) -> None:
        self._store = store
        self._clock = clock
        self._promoted = promoted
        self._lease = settings.lease
        now = clock.monotonic()
        self._measure = _Duty(settings.lease)
        self._heal = _Duty(settings.lease / 5)
        self._sweep = _Duty(SWEEP_INTERVAL, now + SWEEP_INTERVAL)
        self._prune = _Duty(settings.prune_interval, now + random.uniform(0, settings.prune_interval))  # noqa: S311
        self._swept_to = self._limits_seen_to = ""
        self._pauses: dict[int, pausing.Task] = {}
        self._next: int | None = None
        #: When the store was last asked for that moment (monotonic seconds).
        self._asked_at = -inf
        #: From when on a silent node counts as lost: nobody could renew while the store was away, or we were. Before
        #: our first step we weren't in touch either: an outage may be going on as this process begins.
        self._trust_leases_from = inf
        self._in_touch_at = -inf

    def step(self, patience: float = 0.0) -> None:
        """Do what is due. Raises while the store is away.

        What the store last said of its next moment is believed for `patience` seconds: 0 for who has heard a ring.
        """
        now = self._clock.monotonic()
        if now - self._in_touch_at > self._lease / 2:
            self._trust_leases_from = now + self._lease
        self._turn(now, patience)
        self._in_touch_at = self._clock.monotonic()

    def _turn(self, now: float, patience: float) -> None:
        if asks := self._is_due() or now >= self._asked_at + patience:
            self._asked_at = -inf  # if it can't be asked now, it is at the next step
        if self._measure.is_due(now):
            self._store.measure_clock()
        if asks:
            self._let_time_pass()
            self._asked_at = now
        if self._heal.is_due(now):
            self.heal(trust_leases=now >= self._trust_leases_from)
        if self._sweep.is_due(now):
            self._swept_to, repaired = self._store.sweep(self._swept_to)
            if repaired:
                logger.warning("%d works had missed their wake-up and were unblocked", repaired)
                self._promoted()
            pausing.go_on(self._store, self._pauses)
            self._limits_seen_to = self._store.forget_limits(self._limits_seen_to)
        if self._prune.is_due(now):
            self._store.prune(only_expired=True)
            self._store.prune_results()

    def _is_due(self) -> bool:
        return self._next is not None and self._next <= self._clock.now()

    def _let_time_pass(self) -> None:
        self._next = self._store.next_moment()
        if self._is_due():
            promoted = self._store.promote()
            self._store.expire()
            promoted += self._store.wake_limited() + self._store.pass_deadlines()
            if promoted:
                # Not before all is written: on SQLite a claim would have to wait for the rest, and that is by naps.
                self._promoted()
            self._next = self._store.next_moment()

    def until_next(self, longest: float) -> float:
        """Seconds until time must be looked after again, at most `longest`, as far as the last step knew."""
        if self._next is None:
            return longest
        # What is due and still there is held by somebody: it is tried again, but not without a breath.
        return min(longest, max(BREATH, (self._next - self._clock.now()) / SECOND))

    def until_asked(self, patience: float) -> float:
        """Seconds until a step with this patience asks the store again."""
        return max(BREATH, self._asked_at + patience - self._clock.monotonic())

    def until_duty(self) -> float:
        """Seconds until the next of the duties that come again and again, whatever the works are due."""
        at = min(duty.at for duty in (self._measure, self._heal, self._sweep, self._prune))
        return max(BREATH, at - self._clock.monotonic())

    def heal(self, *, trust_leases: bool) -> int:
        """Put back the works of lost nodes; without `trust_leases`, only of nodes whose process is known to be gone."""
        # Others' machines aren't read: a fleet of thousands would ask for millions of rows a second.
        here, has_lost = self._store.look_for_lost(this_host(), self._clock.now() if trust_leases else 1)
        if gone := dead_nodes(here):
            self._store.give_up(gone)
        elif not has_lost:
            return 0
        healed, stuck = 0, list[str]()
        while (found := self._store.heal(self._clock.now() if trust_leases else 1, stuck)) is not None:
            lost, settled = found
            healed += len(settled.accepted)
            if settled.held:
                stuck.append(lost)  # others are at these rows; the next round sees to them
        if healed:
            logger.warning("%d works of lost nodes were put back", healed)
            self._promoted()
        return healed
