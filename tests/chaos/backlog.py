"""What waits to be run: producers look at it, and hold back as a sane user would."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from celery_workmanager import State, WorkManager
from celery_workmanager.overview import census
from celery_workmanager.query import WorkQuery

#: Works that may wait before producers wait, too: more than the workers run in ten seconds.
MOST = 600
#: The same for works under the limit of the fleet, which run two at a time.
MOST_LIMITED = 40
#: The tag of these.
LIMITED = "limited"
#: Seconds for which a look holds.
_LASTS = 1.0
_UNFINISHED = (State.ENQUEUED, State.RUNNING, State.BLOCKED)


@dataclass(frozen=True, slots=True)
class _Look:
    at: float = float("-inf")
    total: int = 0
    limited: int = 0


class Backlog:
    """How much waits, by a look at the store at most once a second."""

    def __init__(self, manager: WorkManager, most: int = MOST, most_limited: int = MOST_LIMITED) -> None:
        self._manager, self._most, self._most_limited = manager, most, most_limited
        self._lock, self._latest = threading.Lock(), _Look()

    @property
    def is_full(self) -> bool:
        """Whether as much waits as may, leaving out what waits for a moment."""
        return self._look().total >= self._most

    @property
    def has_room_for_limited(self) -> bool:
        return self._look().limited < self._most_limited

    def _look(self) -> _Look:
        with self._lock:
            if time.monotonic() - self._latest.at > _LASTS:
                self._latest = _Look(time.monotonic(), self._count(), self._count_limited())
            return self._latest

    def _count(self) -> int:
        with self._manager.store.database.plain() as connection:
            found = census(connection, self._most)
        return sum(pile.number for pile in (*found.ready, *found.limited, *found.blocked, *found.in_hand))

    def _count_limited(self) -> int:
        some = WorkQuery(tags=[LIMITED], states=_UNFINISHED, limit=self._most_limited)
        return len(self._manager.get_work_infos(some))
