"""What the threads of a node have in common: duties that outlive an absent store, and a rest that the bell may end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from sqlalchemy.exc import DBAPIError

from celery_workmanager.errors import StoreError
from celery_workmanager.outage import Outage

__all__ = ["AWAY", "Duties"]

logger = logging.getLogger(__name__)

#: What a store that is away raises.
AWAY = (StoreError, DBAPIError, OSError)
#: Seconds between two tries to reach a store that is away.
_PAUSE = 0.5
#: Seconds in which rings don't wake the upkeep again.
_CALM = 0.1
#: Seconds that what a ring tells of to be claimed goes first: both at once would take longer.
_AFTER_YOU = 0.005


class Duties:
    """Duties until `stopped` is set; `told` ends a rest.

    `prove`: a duty that succeeds shows that the store is there.
    """

    def __init__(self, outage: Outage, *, prove: bool = False) -> None:
        self.stopped = threading.Event()
        self.told = threading.Event()
        self._outage, self._prove = outage, prove

    def guarded(self, duty: Callable[[], Any], what: str) -> Any:
        """What `duty` returns; ``None`` after a pause when the store is away, or something is wrong with it."""
        try:
            done = duty()
        except AWAY as error:
            self._outage.away(error)
        except Exception:
            # A defect in one duty must not end the others, nor itself for good.
            logger.exception("%s failed", what)
        else:
            if self._prove:
                self._outage.back()
            return done
        self.stopped.wait(_PAUSE)
        return None

    def rest(self, pause: float) -> bool:
        """Wait `pause` seconds, or until something is told; returns whether it was."""
        # A ring may tell of something that is due sooner; but under load it rings all the time.
        first = min(pause, _CALM)
        self.stopped.wait(first)
        if pause > first and self.told.wait(pause - first):
            self.stopped.wait(_AFTER_YOU)
        is_told = self.told.is_set()
        if is_told:  # what is told from here on ends the next rest
            self.told.clear()
        return is_told
