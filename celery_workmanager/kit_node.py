"""The node of the testing kit: it offers every queue, every worker, and every constraint until a test says less."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery_workmanager.clock import HeldClock
from celery_workmanager.constraints import Constraints
from celery_workmanager.declared import declared_facts
from celery_workmanager.judgement import Unmet, unmet
from celery_workmanager.lanes import Lane
from celery_workmanager.offer import Offer
from celery_workmanager.outcome import Claim
from celery_workmanager.readings import Readings

#: What is read until a test says less.
_FINE: dict[str, Any] = {
    "charging": True, "battery_percent": 100, "network": "UNMETERED", "roaming": False, "storage_free_percent": 100,
    "memory_free_percent": 100, "load": 0, "idle": True,
}  # fmt: skip


class KitNode(Offer):
    """What the kit's node offers. What `set` hasn't declared is met; hours are those of the kit's clock."""

    def __init__(self, clock: HeldClock, on_change: Callable[[], None]) -> None:
        super().__init__(dict, clock, lambda: self.readings)
        self._on_change = on_change
        #: The sensors that are declared; of others everything is met.
        self._declared: set[str] = set()
        self.readings = self._fine()
        #: Works that run whatever the node reads, until their next run has ended.
        self.met: set[str] = set()

    def set(self, **words: Any) -> None:
        """Declare what the node reads from now on, in the words of `declared`: ``charging=False, battery_percent=12``.

        Runs that lose a constraint by it are stopped, also the one that calls this. Raises InvalidRequest.
        """
        self.readings = Readings.of(self._clock.now(), self.readings, **words)
        self._declared |= declared_facts("reading", words).keys()
        self._on_change()

    def reset(self) -> None:
        """Declare nothing: every constraint is met again."""
        self._declared.clear()
        self.readings = self._fine()

    def _fine(self) -> Readings:
        return Readings.of(self._clock.now(), **_FINE)

    def serves(self, lane: Lane) -> bool:
        """Every lane."""
        del lane
        return True

    def lost(self, claim: Claim) -> Unmet | None:
        """As for every node, but for works whose constraints count as met."""
        return None if claim.id in self.met else super().lost(claim)

    def _first_unmet(self, constraints: Constraints) -> Unmet | None:
        found = unmet(constraints, self.readings, self._clock.now())
        return next((each for each in found if each.sensor is None or each.sensor in self._declared), None)
