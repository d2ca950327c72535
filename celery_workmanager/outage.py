"""A store that is away is news once, and once more when it is back: not with each of the tries in between."""

from __future__ import annotations

import logging
import threading
import time

from celery_workmanager.errors import StoreNotMigrated, StoreTooNew

logger = logging.getLogger(__name__)

#: Seconds after which an outage that goes on is mentioned again.
REMINDER = 60.0


class Outage:
    """What the threads of a node know together of the store's being away; `kept`: what becomes of what they hold.

    `what`: what is away, if it isn't the store.
    """

    def __init__(self, kept: str = "works in hand are kept", what: str = "The store") -> None:
        self._kept, self._what = kept, what
        self._lock = threading.Lock()
        self._since: float | None = None
        self._said_at = 0.0

    @property
    def is_on(self) -> bool:
        """Whether the last try failed."""
        return self._since is not None

    def away(self, error: BaseException) -> None:
        """A try failed."""
        now = time.monotonic()
        with self._lock:
            begins = self._since is None
            if begins:
                self._since = now
            if not begins and now - self._said_at < REMINDER:
                return
            self._said_at = now
        if isinstance(error, (StoreNotMigrated, StoreTooNew)):
            logger.error("%s can't be used by this version; it is tried again: %s", self._what, brief(error))
        else:
            logger.warning("%s is away; %s, and it is tried again: %s", self._what, self._kept, brief(error))

    def back(self) -> None:
        """A try succeeded."""
        if self._since is None:
            return
        with self._lock:
            since, self._since = self._since, None
        if since is not None:
            logger.warning("%s is back after %.1f s", self._what, time.monotonic() - since)


def brief(error: BaseException) -> str:
    """The first line of what `error` says."""
    return str(error).split("\n", maxsplit=1)[0]
