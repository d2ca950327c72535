"""What waits to be run: producers look at it, and hold back as a sane user would."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from celery_workmanager import WorkManager
from celery_workmanager.overview import Census, census

#: Works that may wait before producers wait, too: more than the workers run in a quarter of a minute.
MOST = 600
#: The same for works under the limit of the fleet, which run two at a time.
MOST_LIMITED = 40
#: Seconds for which a look holds.
_LASTS = 1.0


@dataclass(frozen=True, slots=True)
class _Look:
    at: float = float("-inf")
    total: int = 0
    limited: int = 0


class Backlog:
    """How much waits, by a look at the store at most once a second."""

    def __init__(self, manager: WorkManager) -> None:
        self._manager, self._lock, self._latest = manager, threading.Lock(), _Look()

    @property
    def is_full(self) -> bool:
        return self._look().total > MOST

    @property
    def has_room_for_limited(self) -> bool:
        return self._look().limited < MOST_LIMITED

    def _look(self) -> _Look:
        with self._lock:
            if time.monotonic() - self._latest.at > _LASTS:
                with self._manager.store.database.plain() as connection:
                    found = census(connection, MOST + 1)
                self._latest = _Look(time.monotonic(), _waiting(found), sum(pile.number for pile in found.limited))
            return self._latest


def _waiting(found: Census) -> int:
    """All but what waits for a moment."""
    return sum(pile.number for pile in (*found.ready, *found.limited, *found.blocked, *found.in_hand))
