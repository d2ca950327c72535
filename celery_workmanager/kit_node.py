"""What the testing kit's node reads and offers: every queue, every worker, and every constraint until a test says less."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery_workmanager.clock import HeldClock
from celery_workmanager.constraints import Constraints
from celery_workmanager.judgement import Unmet, unmet
from celery_workmanager.lanes import Lane
from celery_workmanager.offer import Offer
from celery_workmanager.outcome import Claim
from celery_workmanager.readings import Readings


class KitNode(Offer):
    """The node of a kit. What `set` hasn't declared is met, whatever is asked for; hours are those of the kit's clock."""

    def __init__(self, clock: HeldClock, on_change: Callable[[], None]) -> None:
        super().__init__(dict, clock, lambda: self.readings)
        self._on_change = on_change
        self.readings = Readings()
        #: Works that run whatever the node reads, until their next run has ended.
        self.met: set[str] = set()

    def set(self, **words: Any) -> None:
        """Declare what the node reads from now on: ``charging=False``, ``battery_percent=12``, ``network=…``,
        ``storage_free_percent=3``, ``labels={"gpu": "a100"}``, ``unknown=["power"]`` … (see `Readings.of`).

        Runs that lose a constraint by it are stopped, also the one that calls this. Raises InvalidRequest.
        """
        self.readings = Readings.of(self._clock.now(), self.readings, **words)
        self._on_change()

    def reset(self) -> None:
        """Declare nothing: every constraint is met again."""
        self.readings = Readings()

    def serves(self, lane: Lane) -> bool:
        """Every lane."""
        return True

    def lost(self, claim: Claim) -> Unmet | None:
        """As for every node, but for works whose constraints count as met."""
        return None if claim.id in self.met else super().lost(claim)

    def _first_unmet(self, constraints: Constraints) -> Unmet | None:
        found = unmet(constraints, self.readings, self._clock.now())
        return next((each for each in found if each.sensor is None or each.sensor in self.readings), None)
