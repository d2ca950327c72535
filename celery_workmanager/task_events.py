"""Task events on their way to the broker: from a thread that may wait for it, and together when there are many."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import time
from typing import Any

from celery_workmanager.messenger import Messenger

__all__ = ("TaskEvents",)

#: More than so many may not wait; what comes then is dropped.
_MOST = 30_000
#: How many events go in one message: as many as Celery's own worker lets come together.
_TOGETHER = 24


class TaskEvents:
    """Sends what it is told soon; a broker that is slow or away delays events and nothing else.

    What has gathered meanwhile is one message (``task.multi``), as in Celery's own worker where that has an event loop
    (`EventDispatcher.buffer_group`). `current` is the dispatcher of Celery's consumer, another one after each
    reconnect, or ``None`` while nobody wants task events.
    """

    def __init__(self, current: Callable[[], Any]) -> None:
        self._current = current
        self._messenger = Messenger("workmanager-events")
        self._told: deque[tuple[str, dict[str, Any]]] = deque()
        self._is_asked = False
        self._theirs: Any = None
        self._ours: Any = None

    def send(self, kind: str, fields: dict[str, Any]) -> None:
        """Send an event, of this moment. Any thread."""
        if len(self._told) >= _MOST:
            return
        self._told.append((kind, {**fields, "timestamp": time()}))
        # Whoever sends clears it before it looks: it is asked once too often rather than not at all.
        if not self._is_asked:
            self._is_asked = True
            self.post(self._send_told)

    def post(self, call: Callable[[], object]) -> None:
        """Make this call in the same thread."""
        self._messenger.post(call)

    def flush(self, seconds: float) -> None:
        """Wait, at most so long, until all has been sent."""
        self._messenger.flush(seconds)

    def _send_told(self) -> None:
        self._is_asked = False
        while self._told:
            kind, fields = self._told.popleft()
            dispatcher = self._dispatcher()
            if dispatcher is not None:
                dispatcher.send(kind, **fields)
        if self._ours is not None:
            self._ours.flush()

    def _dispatcher(self) -> Any:
        """One that gathers events, beside the consumer's own and by its connection."""
        theirs = self._current()
        if theirs is None:
            return None
        if theirs is not self._theirs:
            self._theirs, self._ours = theirs, self._beside(theirs)
        return self._ours

    def _beside(self, theirs: Any) -> Any:
        ours = theirs.app.events.Dispatcher(
            theirs.connection, channel=theirs.channel, hostname=theirs.hostname, groups=theirs.groups,
            buffer_group=frozenset({"task"}), buffer_limit=_TOGETHER,
        )  # fmt: skip
        # A connection takes one message at a time.
        ours.mutex = theirs.mutex
        if self._ours is not None:
            ours.extend_buffer(self._ours)
        return ours
