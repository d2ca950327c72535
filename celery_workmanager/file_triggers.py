"""The works of a node that wait for changes of files: it watches for them, and claims those whose time has come."""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import Protocol

from celery_workmanager.clock import Clock
from celery_workmanager.constraints import Constraints
from celery_workmanager.lanes import TRIGGER
from celery_workmanager.offer import Offer
from celery_workmanager.outcome import Claim
from celery_workmanager.store import Store, triggering
from celery_workmanager.store.claiming import Look
from celery_workmanager.store.triggering import Waiting
from celery_workmanager.timing import SECOND
from celery_workmanager.triggers import Changes
from celery_workmanager.watching import Seen, Watched

logger = logging.getLogger(__name__)

#: Seconds between two looks at which works wait.
LOOK = 1.0


class Watcher(Protocol):
    """What tells of changes: see `watching.FileWatcher`."""

    def watch(self, wanted: Mapping[str, Watched]) -> None:
        """Watch this from now on, and nothing else."""

    def close(self) -> None:
        """Stop watching."""


class FileTriggers:
    """Turned by the dispatcher's thread; the watcher only leaves notes. `make_watcher`: ``None``: there is none."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        offer: Offer,
        make_watcher: Callable[[Callable[[Seen], None]], Watcher] | None,
    ) -> None:
        self._store, self._clock, self._offer = store, clock, offer
        self._watcher = None if make_watcher is None else make_watcher(self.changed)
        self._works: dict[str, tuple[Waiting, Changes]] = {}
        self._lanes: list[int] = []
        self._look_at = -inf
        #: Whether it may have claimed since it was last asked when it is to be turned again.
        self._has_turned = False
        self._has_complained = False
        self._notes: deque[tuple[str, int]] = deque()
        #: Called after something has changed, in the watcher's thread.
        self.on_change: Callable[[], None] = lambda: None

    def changed(self, seen: Seen) -> None:
        """Take notice of changes, so many microseconds ago."""
        now = self._clock.now()
        self._notes.extend((path, now - age) for path, age in seen)
        self.on_change()

    def hear(self, seen: Look) -> None:
        """See which works of the lanes that were seen wait, and what has changed for them."""
        lanes = [lane for lane in seen.lanes if lane in seen.kinds and self._is_ours(seen, lane)]
        if self._watcher is None:
            self._complain(lanes)
            return
        if lanes != self._lanes or (lanes and self._clock.monotonic() >= self._look_at):
            self._lanes, self._look_at = lanes, self._clock.monotonic() + LOOK
            self._know(triggering.waiting(self._store, lanes) if lanes else [])
        while self._notes:
            path, at = self._notes.popleft()
            for _, changes in self._works.values():
                changes.note(path, at)

    def _is_ours(self, seen: Look, lane: int) -> bool:
        return seen.kinds[lane].mark == TRIGGER and self._offer.covers(seen.kinds[lane])

    def _know(self, works: Iterable[Waiting]) -> None:
        # Triggers of a later version are left to its nodes.
        readable = [each for each in works if not Constraints.known_of(each.options["constraints"])[1]]
        found = {f"{each.id}/{each.generation}/{each.since}": each for each in readable}
        if found.keys() == self._works.keys():
            return
        # What is seen to wait was enqueued before, whatever the clock of its producer says.
        limits, now = self._store.terms.limits, self._clock.now()
        self._works = {
            key: self._works.get(key) or (each, Changes(_constraints(each), limits, min(each.since, now)))
            for key, each in found.items()
        }
        self._watch()

    def _watch(self) -> None:
        assert self._watcher is not None  # noqa: S101 - without one nothing is known
        now = self._clock.now()
        wanted = {key: Watched(changes.targets, now - changes.since) for key, (_, changes) in self._works.items()}
        self._watcher.watch(wanted)

    def _complain(self, lanes: list[int]) -> None:
        if lanes and not self._has_complained:
            logger.error("works wait for changes of files, which need celery-workmanager[files] to be watched")
            self._has_complained = True

    def claim(self, seen: Look, node: str, name: str = "") -> list[Claim]:
        """Claim for `node` the work whose changes have waited longest, if there is one whose time has come.

        One whose `name` is drained only hears, or its notes would become more and more.
        """
        if not seen.kinds and not self._works:
            self._lanes = []  # the next that waits is looked at when it is seen
            return []
        self.hear(seen)
        if name in seen.drained:
            return []
        self._has_turned = True
        key, at = self._next()
        if key is None or at > self._clock.now():
            return []
        waiting, changes = self._works[key]
        # What the store can't take now is known until it can: of what was deleted no moment would tell.
        claims = triggering.fire(self._store, waiting, changes.triggered, node, secrets.randbits(62))
        del self._works[key]
        # If it still waits, its changes are found again by their moments.
        self._watch()
        return claims

    def _next(self) -> tuple[str | None, float]:
        due = ((changes.fires_at, key) for key, (_, changes) in self._works.items())
        at, key = min(((at, key) for at, key in due if at is not None), default=(inf, None))
        return key, at

    def until_next(self) -> float:
        """Seconds until it is to be turned again, for who turned it before: others have no use for waking."""
        has_turned, self._has_turned = self._has_turned, False
        if not (self._works and has_turned):
            return inf
        _, at = self._next()
        return max(0.0, min(self._look_at - self._clock.monotonic(), (at - self._clock.now()) / SECOND))

    def waits(self, work_id: str) -> bool:
        """Whether this work was last seen to wait."""
        return any(each.id == work_id for each, _ in self._works.values())

    def close(self) -> None:
        """Stop watching."""
        if self._watcher is not None:
            self._watcher.close()


def _constraints(waiting: Waiting) -> Constraints:
    return Constraints.from_json(waiting.options["constraints"])
